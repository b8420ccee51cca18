"""Learning-rate schedules: pure multipliers in [0, 1], one per file."""
