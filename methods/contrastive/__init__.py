"""Contrast between images, regions and pixels: queues of keys, and losses that compare with them."""
