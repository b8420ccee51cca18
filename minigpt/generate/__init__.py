"""Text from a trained model, and models from and to files."""
