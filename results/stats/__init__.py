"""Bootstrap intervals, small samples, rank tests."""
