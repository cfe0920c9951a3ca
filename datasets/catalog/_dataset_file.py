"""``dataset.yaml`` of the user's own slides: its keys, and names that refer to its classes."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tissuebench.common.text_files import known_as, tidy
from tissuebench.datasets.catalog._yaml import Names, load_yaml
from tissuebench.datasets.color.white_background import WhiteBackground
from tissuebench.datasets.types import IGNORE_LABEL, ClassMap, FrameName, LabelCosts
from tissuebench.datasets.weak_labels import MIN_SHARE
from tissuebench.errors import DataError, unknown_name

_NAMES = {
    "name": Names.VALUES, "licence": Names.VALUES, "classes": Names.KEYS, "diagnoses": Names.BOTH,
    "drawing_order": Names.VALUES, "class_names": Names.BOTH, "mask_values": Names.VALUES,
}  # fmt: skip
_WITH_NULL = ("class_names", "mask_values")
_HEX = re.compile(r"#(?P<digits>[0-9a-fA-F]{6})")
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_PALETTE: tuple[tuple[int, int, int], ...] = (
    (225, 225, 225), (240, 150, 180), (80, 160, 90), (60, 70, 160), (200, 40, 40), (240, 140, 20),
    (140, 80, 180), (90, 190, 200), (150, 110, 60), (220, 200, 60),
)  # fmt: skip
"""Colours of classes that are given as a list, in its order; further ones are spread over the hues."""

_Color = tuple[int, int, int]


def _color(value: object) -> object:
    """Return [r, g, b] for "#rrggbb"."""
    if value is None:
        raise ValueError('has no colour; write [230, 230, 230] or "#E6E6E6" (without quotation marks, # is a comment)')
    if not isinstance(value, str):
        return value
    found = _HEX.fullmatch(value.strip())
    if found is None:
        raise ValueError(f'{value!r} is no colour; write [230, 230, 230] or "#E6E6E6"')
    return list(bytes.fromhex(found["digits"]))


def _classes(value: object) -> object:
    """Return classes with tidy names; a list of names gets the colours of the palette."""
    if value is None:
        raise ValueError("names no class; write each with its colour, as in tumour: [200, 40, 40]")
    if isinstance(value, list):
        colors = _palette(len(value))
        pairs = list(zip(value, colors, strict=False))
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        return value
    classes = {tidy(str(name)): color for name, color in pairs}
    if len(classes) < len(pairs):
        raise ValueError("a class is there twice; keep one")
    return classes


def _palette(count: int) -> tuple[_Color, ...]:
    hues = (colorsys.hsv_to_rgb(number * 0.618 % 1, 0.55, 0.85) for number in range(count))
    return (*_PALETTE, *(cast("_Color", tuple(round(channel * 255) for channel in hue)) for hue in hues))


def _several(value: object) -> object:
    """Return a list for a single name."""
    return [value] if isinstance(value, str) else value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value):
        raise ValueError(f"{value!r} is not a number; write {value.replace(',', '.')}")
    return value


_Channel = Annotated[int, Field(ge=0, le=255)]
_Value = Annotated[int, BeforeValidator(_number), Field(ge=0, le=255)]
_Several = Annotated[tuple[str, ...], BeforeValidator(_several)]


class DatasetFile(BaseModel):
    """Keys of ``dataset.yaml``; those that are not described here are fields of ``Recipe``.

    Attributes:
        classes: colours by class, ``[r, g, b]`` or ``"#rrggbb"``; a list of names gets the colours of a fixed palette.
        diagnoses: for each diagnosis the classes that it allows, or the only one.
        white_background: see ``WhiteBackground``.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    licence: str = "not stated"
    mpp: Annotated[float | None, BeforeValidator(_number)] = Field(None, gt=0, allow_inf_nan=False)
    tile_px: Annotated[int, BeforeValidator(_number)] = Field(256, ge=32)
    classes: Annotated[
        dict[str, Annotated[tuple[_Channel, _Channel, _Channel], BeforeValidator(_color)]], BeforeValidator(_classes)
    ]
    diagnoses: dict[str, _Several] = {}
    drawing_order: tuple[str, ...] | None = None
    costs: LabelCosts = LabelCosts()
    min_tag_share: float = Field(MIN_SHARE, ge=0, le=1, allow_inf_nan=False)
    white_background: WhiteBackground | None = None
    frame: FrameName = "auto"
    class_names: dict[str, str | None] = {}
    mask_values: dict[_Value, str | None] = {}

    def class_map(self) -> ClassMap:
        """Return the classes and what each diagnosis allows."""
        return ClassMap(tuple(self.classes), tuple(self.classes.values()), self.diagnoses)


def read_dataset_file(path: Path) -> DatasetFile:
    """Read and check ``dataset.yaml``; names of classes are returned as ``classes`` writes them.

    Raises:
        DataError: missing or invalid; names the key.
    """
    try:
        content = load_yaml(path, _NAMES, _WITH_NULL)
        described = DatasetFile.model_validate(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; see 'Your own slides' in the README") from None
    except ValidationError as error:
        raise DataError(f"{path}: {_complaint(error)}") from None
    if not 2 <= len(described.classes) < IGNORE_LABEL:
        raise DataError(
            f"{path}: key 'classes': class names must be 2 to {IGNORE_LABEL - 1}, here are {len(described.classes)} "
            "(add one for what is not of interest, such as 'other')"
        )
    return _with_known_classes(path, described)


def _with_known_classes(path: Path, described: DatasetFile) -> DatasetFile:
    """Return the description with every name of a class as ``classes`` writes it.

    Raises:
        DataError: a key names something that is no class.
    """

    def known(key: str, name: str) -> str:
        found = known_as(name, described.classes)
        if found is None:
            raise DataError(f"{path}: key {key}: {unknown_name('class', name, described.classes)}")
        return found

    def meant(key: str, entry: str | int, name: str | None) -> str | None:
        return None if name is None else known(f"{key!r}, {entry!r}", name)

    order, white = described.drawing_order, described.white_background
    if white is not None and white.label is not None:
        white = replace(white, label=known("'white_background.label'", white.label))
    diagnoses = {
        tidy(diagnosis): tuple(known(f"'diagnoses', {diagnosis!r}", name) for name in names)
        for diagnosis, names in described.diagnoses.items()
    }
    return described.model_copy(
        update={
            "diagnoses": diagnoses,
            "drawing_order": None if order is None else tuple(known("'drawing_order'", name) for name in order),
            "white_background": white,
            "class_names": {one: meant("class_names", one, name) for one, name in described.class_names.items()},
            "mask_values": {one: meant("mask_values", one, name) for one, name in described.mask_values.items()},
        }
    )


def _complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if not key:
        return "holds no keys; see 'Your own slides' in the documentation"
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return unknown_name("key", key, DatasetFile.model_fields)
    return f"key {key!r}: {first['msg']}"
