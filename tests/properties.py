"""Property tests: quick ones draw their examples from fixed seeds, the slow tier at random and ten times as many."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

QUICK, THOROUGH = "quick", "thorough"
# A shared core may be slow at any moment: no deadline.
settings.register_profile(QUICK, deadline=None, derandomize=True, database=None)
settings.register_profile(THOROUGH, deadline=None, derandomize=False, max_examples=1000, print_blob=True)


def examples(number: int, **options: Any) -> settings:
    """Return settings with ``number`` examples in the quick tests, and ten times as many in the slow tier."""
    return settings(max_examples=number * settings().max_examples // 100, **options)
