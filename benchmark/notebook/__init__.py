"""Runs, datasets and trained methods for notebooks and scripts: what ``import tissuebench`` offers.

Each calls what the command line calls, and shows itself as a table or picture in a notebook.
"""
