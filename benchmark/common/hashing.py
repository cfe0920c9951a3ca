"""Canonical JSON, content hashes and derived seeds: the one way anything in the suite gets an identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical_json(value: Json) -> str:
    """The one spelling of a JSON value: sorted keys, no blanks, no NaN."""
    return _ENCODER.encode(value)


def content_hash(value: Json) -> str:
    """Sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def derive_seed(*parts: Json) -> int:
    """A 63-bit seed that is a pure function of ``parts``: the same in every process, whatever ran before.

    Every source of randomness names itself (``derive_seed(trial_seed, "order")``), so that drawing more numbers
    from one never moves another.
    """
    return int(content_hash(list(parts))[:16], 16) >> 1
