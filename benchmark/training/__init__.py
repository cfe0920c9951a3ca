"""One Lightning fit: callbacks, checkpoints, feature cache, pseudo-mask store."""
