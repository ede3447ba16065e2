"""Into the queue: what is checked before, which queue is chosen, and all of the DAG or nothing."""
