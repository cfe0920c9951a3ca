"""Files of the Hugging Face hub, with one line that says what to do where one cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from tissuebench.errors import ConfigError

WEIGHTS_NAMES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.pth",
)
"""Files with the weights of an encoder in its repository, the preferred one first."""


def hub_file(repository: str, names: Sequence[str], key: str, is_gated: bool = False) -> Path:
    """Return the first of these files that a repository has, from the hub's cache or downloaded.

    Args:
        repository: ``owner/name``.
        names: file names, the preferred one first.
        key: setting that asked for it, for messages.
        is_gated: whether access is known to be granted on request only.

    Raises:
        ConfigError: gated, no such repository or file, or the hub cannot be reached.
    """
    page = f"https://huggingface.co/{repository}"
    by_hand = "or download its files from there by hand and set network.weights to its path"
    gated = (
        f"{key}: {repository} is gated: request access on {page}, log in with 'hf auth login' (or set HF_TOKEN), "
        f"{by_hand}"
    )
    is_reachable = _is_reachable()
    reason = "it is not in the cache, and the hub cannot be reached"
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=not is_reachable))
        except GatedRepoError:
            raise ConfigError(gated) from None
        except RepositoryNotFoundError:
            raise ConfigError(
                f"{key}: the hub has no repository {repository!r}, or hides it: check the name, log in with "
                f"'hf auth login', {by_hand}"
            ) from None
        except RemoteEntryNotFoundError:
            reason = f"it has none of {', '.join(names)}"
        except LocalEntryNotFoundError:
            if is_reachable:
                break  # asked in vain; another name would be, too
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            break
    if is_gated:
        raise ConfigError(f"{gated} ({reason})")
    raise ConfigError(f"{key}: cannot get {repository} from {page} ({reason}): go online, {by_hand}")


def cached_file(repository: str, names: Sequence[str] = WEIGHTS_NAMES) -> Path | None:
    """Return the first of these files of a repository that is in the hub's cache; None if none is."""
    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)  # an object says "known not to exist"


def _is_reachable() -> bool:
    """Whether to ask the hub: not if its address has no meaning here, when half a minute would be spent on trying."""
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True
