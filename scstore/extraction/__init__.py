"""Cells through the frozen model into a store."""
