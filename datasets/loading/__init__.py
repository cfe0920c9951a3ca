"""Tiles and labels to training batches: sampling, augmentation, the data module."""
