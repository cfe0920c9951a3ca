"""Survey of a folder of slides: what it holds, and the manifest and description proposed for it."""
