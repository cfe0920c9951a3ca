"""Pseudo-masks from image-level tags: activation maps, dropout attention, pseudo-masks and the gate."""
