"""What the admin says: one cluster, described once."""
