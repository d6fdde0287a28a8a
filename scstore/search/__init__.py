"""Nearest reference cells."""
