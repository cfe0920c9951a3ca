"""Contrastive learning between images, regions and pixels: key queues, and losses that compare against them."""
