"""Text that may stand in a bug report: no secrets, no names of people, machines or private servers."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tissuebench.tracking.log_end import without_secrets

_SERVERS = ("HF_ENDPOINT", "WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def masked(text: str) -> str:
    """Return the text in one line, with secrets, and names of this user, machine and private servers, replaced.

    The user's home directory becomes ``~``, a folder named like the user ``USER``, this machine ``HOST``, the host of a
    server that a variable names that variable.

    Examples:
        >>> masked(f"{Path.home()}/slides: no such folder")
        '~/slides: no such folder'
    """
    text = without_secrets(" ".join(text.split()))
    for pattern, replacement in _private():
        text = re.sub(pattern, replacement, text)
    return "".join(character if character.isprintable() else "?" for character in text)


def _private() -> Iterator[tuple[str, str]]:
    with suppress(RuntimeError):  # neither HOME nor a name: a container that runs under a bare number
        if (folder := str(Path.home())) != "/":  # links are not followed: its file system may hang
            yield rf"(?<![\w.~/-]){re.escape(folder)}(?![\w.-])", "~"
    for variable in _SERVERS:
        for name in (variable, variable.lower()):
            with suppress(ValueError):
                if host := urlsplit(os.environ.get(name, "")).hostname:
                    yield _word(host), variable
    host = socket.gethostname()
    for name in (host, host.partition(".")[0]):
        if name not in ("", "localhost"):
            yield _word(name), "HOST"
    with suppress(OSError, KeyError):
        if (user := getpass.getuser()) != "root":
            yield rf"(?<=/){re.escape(user)}(?![\w.-])", "USER"


def _word(name: str) -> str:
    return rf"(?i)(?<![\w.-]){re.escape(name)}(?![\w-])"
