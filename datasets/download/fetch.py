"""Fetching of a recipe's archives: downloaded or placed manually, verified, unpacked; idempotent."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pooch

from tissuebench.common.files import write_aside
from tissuebench.datasets.catalog.recipe import Download, Recipe
from tissuebench.datasets.download.archives import unpack
from tissuebench.datasets.download.http import Progress, Retry, download
from tissuebench.errors import DataError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHIVE_SUFFIX = re.compile(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz))$")


def fetch(
    recipe: Recipe, folder: Path, progress: Progress, say: Callable[[str], None] = print, retry: Retry | None = None
) -> Path:
    """Bring the recipe's archives into ``folder`` and unpack each into a subfolder of its name.

    Args:
        recipe: the dataset.
        folder: ``data/<name>/raw``; created if it does not exist.
        progress: called with the bytes downloaded and members unpacked.
        say: called with one line at a time: the licence before anything is fetched, digests accepted on first use.
        retry: number and timing of download attempts.

    Returns:
        ``folder``, which ``recipe.rows`` reads.

    Raises:
        DataError: nothing to fetch, an archive that must be downloaded manually, a failed download, a wrong checksum,
            or an archive that is broken or refused.
    """
    if not recipe.downloads:
        raise DataError(f"dataset {recipe.name!r} has nothing to fetch; its files: {recipe.source}")
    wanted = [item for item in recipe.downloads if not unpacked_folder(folder, item).is_dir()]
    if wanted:
        say(f"{recipe.title}: licence: {recipe.licence}")
    absent = [
        folder / item.file_name for item in wanted if item.url is None and not (folder / item.file_name).is_file()
    ]
    if absent:
        paths = " and ".join(f"'{path}'" for path in absent)
        raise DataError(
            f"dataset {recipe.name!r} must be downloaded manually: {recipe.by_hand}, save it as {paths}, then "
            "run this command again"
        )
    for item in wanted:
        archive = folder / item.file_name
        try:
            _obtain(item, archive, progress, retry or Retry())
        except DataError as error:
            hint = f"; or manually: {recipe.by_hand}, save it as '{archive}'" if recipe.by_hand and item.url else ""
            raise DataError(f"{error}{hint}") from None
        unpack(archive, unpacked_folder(folder, item), item.unpacked_bytes, progress)
        _record_first(item, archive, say)  # only now: the digest of a partial file would reject the complete one
    return folder


def unpacked_folder(folder: Path, item: Download) -> Path:
    """Return the folder that an archive is unpacked to; it exists completely or not at all."""
    return folder / _ARCHIVE_SUFFIX.sub("", item.file_name)


def _obtain(item: Download, archive: Path, progress: Progress, retry: Retry) -> None:
    """Ensure that ``archive`` exists and has the expected digest."""
    known = _known_digest(item, archive)
    if archive.is_file():
        if known is None:
            return
        found = pooch.file_hash(str(archive), alg=known.split(":")[0])
        if f"{known.split(':')[0]}:{found}" != known:
            raise DataError(
                f"{archive}: wrong checksum: expected {known}, found {found}; delete it and run this command again"
            )
        return
    if item.url is None:
        raise DataError(f"{archive}: no such file")

    def resuming(url: str, output_file: str, _pooch: object) -> None:
        part = archive.with_name(archive.name + ".part")
        download(url, part, progress, retry)
        part.replace(output_file)

    # The library logs to standard error; here progress and errors replace its messages.
    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(item.url, known, fname=archive.name, path=archive.parent, downloader=resuming)
    except ValueError as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise DataError(f"{archive}: wrong checksum, so it was deleted: {reason}") from None
    except OSError as error:
        raise DataError(f"{archive}: cannot be written ({' '.join(str(error).split())})") from None


def _known_digest(item: Download, archive: Path) -> str | None:
    """Return ``algorithm:hex`` as published, or as recorded when the file was first downloaded."""
    if item.sha256 is not None:
        return f"sha256:{item.sha256}"
    if item.md5 is not None:
        return f"md5:{item.md5}"
    record = _record_of(archive)
    if not record.is_file():
        return None
    text = record.read_text(errors="replace").strip()
    if not _SHA256.fullmatch(text):
        raise DataError(f"{record}: is not a sha256; delete it to accept {archive.name} as it is again")
    return f"sha256:{text}"


def _record_first(item: Download, archive: Path, say: Callable[[str], None]) -> None:
    record = _record_of(archive)
    if item.sha256 is None and item.md5 is None and not record.is_file():
        digest = pooch.file_hash(str(archive), alg="sha256")
        write_aside(record, f"{digest}\n".encode())
        say(f"{archive.name}: no checksum is published; accepted as it is and recorded in {record}: sha256 {digest}")


def _record_of(archive: Path) -> Path:
    return archive.with_name(archive.name + ".sha256")
