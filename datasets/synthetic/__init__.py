"""The embedded data set: procedural H&E slides of a cohort with two kinds of tumour, each patient having only one."""

from tissuebench.datasets.synthetic.cohort import CLASS_NAMES, GENERATOR_VERSION, Patient, SyntheticConfig, cohort
from tissuebench.datasets.synthetic.slides import RenderedSlide, render_slide, write_synthetic

__all__ = [
    "CLASS_NAMES",
    "GENERATOR_VERSION",
    "Patient",
    "RenderedSlide",
    "SyntheticConfig",
    "cohort",
    "render_slide",
    "write_synthetic",
]
