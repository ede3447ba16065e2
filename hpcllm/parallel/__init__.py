"""The ranks: the world they form, how they communicate, and the proof that they do."""
