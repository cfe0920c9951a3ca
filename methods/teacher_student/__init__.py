"""Teacher-student training: moving averages, CutMix, strong views."""
