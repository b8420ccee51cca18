"""A run on disk: who may use its folder, what it holds, whether it can be trusted."""
