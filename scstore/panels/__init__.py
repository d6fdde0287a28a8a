"""Panels: the genes that may enter a sequence."""
