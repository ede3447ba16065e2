"""What follows from both: does it fit, how fast, what limits it. Pure functions."""
