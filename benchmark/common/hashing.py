"""Canonical JSON, content hashes and derived seeds: the only source of identities in the suite."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


_SHA256 = re.compile("[0-9a-f]{64}")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical_json(value: Json) -> str:
    """Return the canonical spelling of a JSON value: sorted keys, no whitespace, no NaN."""
    return _ENCODER.encode(value)


def content_hash(value: Json) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def is_sha256(value: object) -> bool:
    """Whether a value is a SHA-256 in hex, as in an identity in place of a file."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def derive_seed(*parts: Json) -> int:
    """Return a 63-bit seed that is a pure function of ``parts``: the same in every process, whatever ran before.

    Every source of randomness has its own name (``derive_seed(trial_seed, "order")``), so that drawing more numbers
    from one never shifts another.
    """
    return int(content_hash(list(parts))[:16], 16) >> 1
