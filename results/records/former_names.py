"""Names of methods that once stood for something else. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ONCE_PARTIAL = {
    "multilayer_pseudo_published": "multilayer_pseudo_maps",
    "diffusion_published": "diffusion_published[training=plan]",
    "diffusion_published_scratch": "diffusion_published_scratch[training=plan]",
}
"""Names that stood for parts of a published recipe, trained as the plan said, and what these are called since."""


def present_name(variant: str, identity: Mapping[str, Any]) -> str:
    """Return the name of a variant; one of a recipe's name whose settings lack its training is not that recipe."""
    name, bracket, settings = variant.partition("[")
    if name not in _ONCE_PARTIAL or "training" in identity.get("config", {}):
        return variant
    present = _ONCE_PARTIAL[name]
    if not bracket:
        return present
    return f"{present[:-1]},{settings}" if present.endswith("]") else f"{present}[{settings}"
