"""Colour: CIELAB, stain normalisation, white background."""
