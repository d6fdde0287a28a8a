"""How good features and heads are, with controls."""
