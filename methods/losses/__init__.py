"""Loss functions, each with its formula and source."""
