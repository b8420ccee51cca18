"""What this machine does with minigpt's models: measured in two minutes, ending in advice to
copy.
"""
