"""What became of it: Slurm asked once, the logs, the rank that failed first, what was used."""
