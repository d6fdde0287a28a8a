"""Training heads and labelling cells."""
