"""Genes: their names, texts and vectors."""
