"""Hashing, atomic files and folders, and progress display, shared by all subpackages."""
