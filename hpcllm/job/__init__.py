"""What the researcher says: one job, described once."""
