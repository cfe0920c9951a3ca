"""Robust download of one file over HTTP: resumed after interruptions, retried, never mistaken for complete."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from tissuebench.errors import DataError

Progress = Callable[[str, int, int], None]
"""Callback with a description, the number of bytes or files done, and their total (0 if unknown)."""

_CHUNK_BYTES = 2**16  # maximum loss when a connection breaks
_PASSING = (408, 425, 429)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy; the wait doubles after each attempt."""

    attempts: int = 5
    first_wait_seconds: float = 1.0
    timeout_seconds: float = 60.0


class _PassingError(Exception):
    """Transient failure that another attempt may resolve."""


def download(url: str, part: Path, progress: Progress, retry: Retry) -> None:
    """Download ``url`` to ``part``; after a failure the received bytes stay there for the next call.

    It is resumed with ``Range``, guarded by ``If-Range`` if the server sent a version; if the server cannot resume, the
    whole file is requested again.

    Raises:
        DataError: refused (4xx), a web page instead of the file, still failing after the last attempt, or not writable.
    """
    wait = retry.first_wait_seconds
    for attempt in range(1, retry.attempts + 1):
        try:
            _attempt(url, part, progress, f"downloading {part.stem}", retry.timeout_seconds)
            _version_of(part).unlink(missing_ok=True)
            return
        except (
            _PassingError,
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as e:
            if attempt == retry.attempts:
                reason = str(e) if isinstance(e, _PassingError) else f"no connection ({type(e).__name__})"
                raise DataError(f"{url}: {reason}, {attempt} attempts; run the command again to resume") from None
            time.sleep(wait)
            wait *= 2
        except requests.RequestException as error:
            raise DataError(f"{url}: cannot be requested ({_one_line(error)})") from None
        except OSError as error:
            raise DataError(f"{part}: cannot be written ({_one_line(error)})") from None


def _attempt(url: str, part: Path, progress: Progress, what: str, timeout_seconds: float) -> None:
    have, version = part.stat().st_size if part.is_file() else 0, _version_of(part)
    headers = {"Accept-Encoding": "identity"}  # ranges count bytes of the file, not of its compression
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.is_file():
            headers["If-Range"] = version.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=timeout_seconds) as response:
        start, total = _extent(response)
        if response.status_code == 416 and total == have:
            return  # it was complete already, just not renamed
        if response.status_code == 416 or (response.status_code == 206 and start != have):
            part.unlink()
            raise _PassingError("the server resumes at a different offset")
        _require_file(url, response)
        if response.status_code == 200:
            have = 0
        part.parent.mkdir(parents=True, exist_ok=True)
        version.write_text(_named_version(response))
        if not version.stat().st_size:
            version.unlink()
        progress(what, have, total or 0)
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                have += file.write(chunk)
                progress(what, have, total or 0)
    if total is not None and have != total:
        raise _PassingError(f"broke off at {have} of {total} bytes")


def _require_file(url: str, response: requests.Response) -> None:
    said = f"the server says {response.status_code} {response.reason}"
    if response.status_code in _PASSING or response.status_code >= 500:
        raise _PassingError(said)
    if response.status_code not in (200, 206):
        raise DataError(f"{url}: {said}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DataError(f"{url}: the server sends a web page instead of the file, perhaps a sign-in form")


def _extent(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the offset of the bytes and the size of the whole file, as far as the server reports them."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is not None:
        return (None if found[1] is None else int(found[1])), (None if found[2] == "*" else int(found[2]))
    length = response.headers.get("Content-Length", "")
    return 0, (int(length) if response.status_code == 200 and length.isdigit() else None)


def _version_of(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _named_version(response: requests.Response) -> str:
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
