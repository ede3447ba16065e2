"""The programs that the scripts call, one file each. Nobody imports these."""
