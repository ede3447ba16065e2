"""What `profile probe` found: held against the profile, written into it, and preferred by plans."""
