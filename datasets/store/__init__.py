"""Sealed tile store: an OME-Zarr 0.5 image and label pyramid for each slide."""
