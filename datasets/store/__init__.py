"""The sealed tile store: an OME-Zarr 0.5 image and label pyramid of each slide."""
