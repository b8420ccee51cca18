"""Files that survive a crash, locks, and data from files that are not trusted."""
