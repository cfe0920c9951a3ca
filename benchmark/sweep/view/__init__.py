"""Views of sweeps and trials for users; nothing here changes a file."""
