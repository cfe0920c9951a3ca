"""Common layout of LUAD-HistoSeg and BCSS-WSSS: labels in file names for training, masks for testing.

Both consist of patches from Han et al. 2022 (Med Image Anal 80:102487): ``train/*.png`` with four bits in the file name
and no mask, ``val`` and ``test`` with ``img/*.png`` and ``mask/*.png`` of the same stem. A mask is a palette PNG whose
indices are the class ids; index 4 is white background or excluded, which the published evaluation and this one ignore.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tissuebench.datasets.catalog._layout import find_below
from tissuebench.datasets.documents import require_safe_id
from tissuebench.datasets.manifest import ManifestRow
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError

IGNORE_INDEX = 4
PATCH_PX = 224
_HELD_OUT = ("val", "test")
_ESCAPES = {"_": "__", "+": "_p", " ": "_s", "[": "_b", "]": "_e"}
_CHARACTERS = {escape: character for character, escape in _ESCAPES.items()}


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """Patch dataset in this layout, described by what differs between the two.

    Attributes:
        title: name for messages.
        class_map: four classes, in the order of the bits and of the palette.
        patient_of: function from a file name's stem to the patient; its second argument is the file, for messages.
        mpp: micrometres per pixel of every patch, if known.
    """

    title: str
    class_map: ClassMap
    patient_of: Callable[[str, str], str]
    mpp: float | None

    def rows(self, root: Path) -> list[ManifestRow]:
        """Return all patches except those that leak (see ``notes``).

        Raises:
            DataError: not this layout, unusable name or label, mask missing or with another palette, or duplicate
                patch.
        """
        return self._kept(root)[0]

    def notes(self, root: Path) -> tuple[str, ...]:
        """Return notes on the patches that were left out because their patient is in a later, held-out part."""
        return self._kept(root)[1]

    def _kept(self, root: Path) -> tuple[list[ManifestRow], tuple[str, ...]]:
        folder = find_below(root, "test/mask", self.title)
        rows = {"train": self._train(folder), **{part: self._masked(folder / part, part) for part in _HELD_OUT}}
        notes: list[str] = []
        # Splits must be disjoint by patient, and only the files show whether the published one is. Its test part is
        # never reduced: patches that share a patient with it are dropped, and from train also those shared with val.
        taken = {row.patient_id for row in rows["test"]}
        for part in ("val", "train"):
            kept = [row for row in rows[part] if row.patient_id not in taken]
            if len(kept) < len(rows[part]):
                patients = len({row.patient_id for row in rows[part]} & taken)
                notes.append(
                    f"{folder}: {len(rows[part]) - len(kept)} of {len(rows[part])} patches of {part} are left out: "
                    f"their {patients} patients are also in a later part (train, val, test)"
                )
            rows[part] = kept
            taken |= {row.patient_id for row in kept}
        if not rows["train"]:
            raise DataError(f"{folder}: every patient of train is also in val or test; no patient is left for training")
        return [row for part in ("train", *_HELD_OUT) for row in rows[part]], tuple(notes)

    def _train(self, folder: Path) -> list[ManifestRow]:
        folders = [path for path in (folder / "train", folder / "training") if path.is_dir()]
        if len(folders) != 1:
            raise DataError(f"{folder}: holds {'both' if folders else 'neither'} train and training; keep one")
        rows, seen = [], dict[str, Path]()
        for image in _images(folders[0]):
            bare = image.stem[: image.stem.rfind("[")]
            tags = self._tags(image)
            if bare in seen:
                raise DataError(f"{image}: is the patch of {seen[bare].name} under another label; keep one")
            seen[bare] = image
            rows.append(self._row(image, None, "train", tags))
        return rows

    def _masked(self, folder: Path, part: str) -> list[ManifestRow]:
        masks = folder / "mask"
        rows = [self._row(image, masks / image.name, part, None) for image in _images(folder / "img")]
        for row in rows:
            if row.annotation is not None and not row.annotation.is_file():
                raise DataError(f"{row.annotation}: no such file, but its image is in {folder / 'img'}; restore it")
        lonely = {path.name for path in _images(masks)} - {row.image.name for row in rows}
        if lonely:
            raise DataError(f"{masks / min(lonely)}: has no image in {folder / 'img'}; restore it")
        self._require_palette(masks / rows[0].image.name)
        return rows

    def _row(self, image: Path, mask: Path | None, part: str, tags: tuple[str, ...] | None) -> ManifestRow:
        patient = self.patient_of(image.stem, str(image))
        return ManifestRow(safe_stem(image.stem, str(image)), patient, image, mask, split=part, mpp=self.mpp, tags=tags)

    def _tags(self, image: Path) -> tuple[str, ...]:
        bits = label_bits(image.stem, len(self.class_map), str(image))
        return tuple(name for name, bit in zip(self.class_map.names, bits, strict=True) if bit)

    def _require_palette(self, mask: Path) -> None:
        # The two datasets look alike but number their classes differently: the palette distinguishes them.
        try:
            with Image.open(mask) as image:
                mode, palette = image.mode, image.getpalette() or []
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{mask}: cannot be read as an image ({' '.join(str(error).split())})") from None
        wanted = [channel for color in self.class_map.colors for channel in color]
        if mode != "P" or palette[: len(wanted)] != wanted:
            found = f"the colours {palette[: len(wanted)]}" if mode == "P" else f"mode {mode!r} without a palette"
            raise DataError(f"{mask}: is no mask of {self.title}: has {found}, not the palette {wanted}")


def label_bits(stem: str, count: int, where: str) -> tuple[bool, ...]:
    """Return the bits between the last ``[`` and the last ``]`` of a stem, with or without blanks in between.

    Raises:
        DataError: no brackets, or not exactly ``count`` digits of 0 and 1.
    """
    start, end = stem.rfind("["), stem.rfind("]")
    digits = "".join(character for character in stem[start + 1 : end] if character.isdigit())
    if not 0 <= start < end or len(digits) != count or set(digits) - {"0", "1"}:
        raise DataError(f"{where}: needs a label of {count} digits 0 or 1 in its name, as in 'x[1001].png'")
    return tuple(digit == "1" for digit in digits)


def safe_stem(stem: str, where: str) -> str:
    """Return a stem as a slide id: each of ``_+ []`` becomes two characters, which ``original_stem`` reverts.

    Raises:
        DataError: it contains another character that is not allowed in an id.
    """
    return require_safe_id("name", "".join(_ESCAPES.get(character, character) for character in stem), where)


def original_stem(slide_id: str) -> str:
    """Return the stem that ``safe_stem`` was called with."""
    parts: list[str] = []
    position = 0
    while position < len(slide_id):
        width = 2 if slide_id[position] == "_" else 1
        part = slide_id[position : position + width]
        parts.append(_CHARACTERS.get(part, part))
        position += width
    return "".join(parts)


def _images(folder: Path) -> list[Path]:
    images = sorted(folder.glob("*.png"))
    if not images:
        raise DataError(f"{folder}: holds no .png; unpack the archive again")
    return images
