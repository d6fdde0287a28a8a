"""Cells as they come: opening files, finding the expression, matching the genes."""
