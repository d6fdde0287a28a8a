"""What a user does: one module a command."""
