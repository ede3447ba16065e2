"""A cluster as its own commands describe it: the queue, a compute node, and the profile that follows."""
