"""Property tests: quick ones draw their examples from fixed seeds, the slow tier at random and twenty times as many."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

QUICK, THOROUGH = "quick", "thorough"
# A shared core may be slow at any moment: no deadline.
settings.register_profile(QUICK, deadline=None, derandomize=True, database=None, max_examples=50)
settings.register_profile(THOROUGH, deadline=None, derandomize=False, max_examples=1000, print_blob=True)


def examples(number: int, **options: Any) -> settings:
    """Return settings with half of ``number`` examples in the quick tests, and ten times ``number`` in the slow tier."""
    return settings(max_examples=max(1, number * settings().max_examples // 100), **options)
