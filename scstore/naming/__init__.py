"""Names for cells with no labelled cell: texts of genes against texts of cell types."""
