"""Features of a frozen encoder, computed once: of training tiles, and of the windows that scoring predicts."""
