"""All results of a run, and of many, read from run directories only."""
