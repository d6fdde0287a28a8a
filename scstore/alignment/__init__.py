"""Training a projector through the frozen model."""
