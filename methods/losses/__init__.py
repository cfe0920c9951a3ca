"""Losses, each with its formula and source."""
