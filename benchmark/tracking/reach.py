"""Whether Weights & Biases can be reached from here, with the account of this user."""

from __future__ import annotations

import os
import urllib.request
from urllib.error import HTTPError
from urllib.parse import urlsplit

import wandb

_ANSWER_SECONDS = 3.0


def why_offline() -> str:
    """Return the reason why nothing can be sent, or "". Called once per sweep; takes seconds at most."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    url = wandb.setup(wandb.Settings(silent=True)).settings.base_url  # else a login asks the server for a name
    try:
        if not wandb.login(prompt=False, verify=False):
            return "no API key: set WANDB_API_KEY"
    except (wandb.errors.Error, ValueError):
        return "the API key is malformed"
    try:
        urllib.request.urlopen(url, timeout=_ANSWER_SECONDS).close()  # noqa: S310 - wandb has checked its scheme
    except HTTPError:
        return ""  # it responds; the first run will show whether the key is valid
    except (OSError, ValueError):
        return f"no answer from {urlsplit(url).hostname}"
    return ""
