"""Tables for the terminal and LaTeX, and names of methods."""
