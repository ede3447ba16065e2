"""The training loop, and what keeps it from losing a step."""
