"""From a cell's expression to a short sequence of genes."""
