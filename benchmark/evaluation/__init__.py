"""Stitched whole-slide scoring."""
