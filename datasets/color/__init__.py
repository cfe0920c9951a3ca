"""Colour processing: CIELAB, stain normalisation, white background."""
