"""A decoder-only transformer, each piece in its own file."""
