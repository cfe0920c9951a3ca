"""Training batches from tiles and labels: sampling, augmentation, the data module."""
