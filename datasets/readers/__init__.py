"""From a slide file to an RGB image at a target mpp."""

from tissuebench.datasets.readers.slide import SlideImage, read_slide

__all__ = ["SlideImage", "read_slide"]
