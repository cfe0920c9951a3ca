"""Sweeps and trials as people look at them; nothing here changes a file."""
