"""One run from its plan to its summary: the loop and what stands around it."""
