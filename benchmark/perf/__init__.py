"""Benchmarks of the suite itself: ratios measured within one run, so that the machine's load cancels out."""
