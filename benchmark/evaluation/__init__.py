"""Stitched whole-slide prediction and scoring."""
