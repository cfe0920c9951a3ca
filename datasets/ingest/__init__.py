"""Ingest of slides into a sealed tile store, slide by slide, in bounded memory."""
