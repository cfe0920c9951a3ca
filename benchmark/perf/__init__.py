"""Benchmarks of the suite itself: ratios measured in one run, so that the machine's load cancels out."""
