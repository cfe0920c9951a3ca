"""End of a worker's log as it is shown outside: without the secrets that this process knows."""

from __future__ import annotations

import os
import re
from pathlib import Path

_BYTES = 1 << 16
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LEAST_CHARACTERS = 8  # shorter values are settings such as "1" or "true"
_IN_URL = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def end_of_log(path: Path) -> str:
    """Return the last lines of a log, 64 KiB at most; empty if there is none."""
    try:
        with path.open("rb") as log:
            start = max(0, log.seek(0, os.SEEK_END) - _BYTES)
            log.seek(start)
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return without_secrets(text.partition("\n")[2] if start else text)


def without_secrets(text: str) -> str:
    """Return the text with passwords in URLs, and values of environment variables named like a secret, as ``***``.

    A log holds what the suite, its libraries and methods print, and a method may print anything.
    """
    secrets = {value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _LEAST_CHARACTERS}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _IN_URL.sub("***", text)
