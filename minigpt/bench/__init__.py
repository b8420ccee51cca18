"""What this machine does with minigpt's models: measured in two minutes, with advice to copy."""
