"""Every registered method passes the contract that is exported to plug-in authors."""

from tissuebench.methods.api.contract import MethodContract
from tissuebench.methods.api.registry import all_methods

SMALLER = {
    "anatomical_contrast": {"representation": 16, "queries": 16, "negatives": 32},
    "anatomical_contrast_published": {"representation": 16, "queries": 16, "negatives": 32, "rep_stride": 4},
    "diffusion_published": {"width": 8},
    "diffusion_published_scratch": {"width": 8},
    "mean_teacher": {"warm_up": 0},  # the teacher is asked from the first step on
}

for _name, _kind in all_methods().items():
    if not _kind.__module__.startswith("tissuebench."):
        continue  # a method that another test made, to fail on purpose
    _test = f"Test{_name.title().replace('_', '')}"
    globals()[_test] = type(_test, (MethodContract,), {"method": _name, "settings": SMALLER.get(_name, {})})
