"""A run on the disk: what its files say."""
