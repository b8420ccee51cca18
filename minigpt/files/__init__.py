"""Files: written so that they survive a crash, locked, read without belief, checked."""
