"""Hashing, atomic files and folders, progress: what every room uses."""
