"""What may be typed: keys, types and checks; the identity of a run; its plan; building from it."""
