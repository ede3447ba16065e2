"""The run directory, its scripts, their submission, and what became of them."""
