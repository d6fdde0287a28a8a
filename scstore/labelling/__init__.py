"""Labels for a user's own cells, with whatever the head reads of them computed on the way."""
