"""Many runs: the records of sweeps, and the jobs of a sweep before they run."""
