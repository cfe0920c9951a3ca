"""Slides to a sealed tile store, slide by slide, in bounded memory."""
