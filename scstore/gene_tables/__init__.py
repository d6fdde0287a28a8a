"""Making and describing gene tables."""
