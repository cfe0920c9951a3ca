"""Meaning of the values of a label image: class ids, values that the dataset maps, or instances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tissuebench.datasets.types import IGNORE_LABEL, ClassMap
from tissuebench.errors import DataError

_OUTSIDE = -1
_KEY = "say in dataset.yaml what the values are, as in mask_values: {{0: null, {value}: {name}}}"


class MaskMeaning:
    """Lookup from the values of one label image to class ids, which remembers the values that occurred.

    Args:
        path: the file, for messages.
        class_map: the classes.
        instance_class: class of all values above 0, with 0 as class 0; None reads values as class ids.
        ignore_index: value that means "not annotated", in addition to ``IGNORE_LABEL``.
        mask_values: class of each value, None is "not annotated"; if empty, values are class ids.
    """

    def __init__(
        self,
        path: Path,
        class_map: ClassMap,
        instance_class: str | None,
        ignore_index: int | None,
        mask_values: Mapping[int, str | None],
    ) -> None:
        self.class_map = class_map
        self.has_instances = instance_class is not None
        self.mapped = () if self.has_instances else tuple(sorted(mask_values))
        self._path = path
        index = class_map.names.index
        table = np.full(256, _OUTSIDE, dtype=np.int16)
        if instance_class is not None:
            table[0], table[1:] = 0, index(instance_class)
        elif mask_values:
            for value, name in mask_values.items():
                table[value] = IGNORE_LABEL if name is None else index(name)
        else:
            table[: len(class_map)] = np.arange(len(class_map))
            table[IGNORE_LABEL] = IGNORE_LABEL
        if ignore_index is not None:
            table[ignore_index] = IGNORE_LABEL
        self._table = table
        self._seen = np.zeros(256, dtype=bool)

    def ids(self, values: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Return the class ids of a block of values, of the same shape.

        Raises:
            DataError: a value has no meaning; the smallest is named.
        """
        self._seen |= np.bincount(values.ravel(), minlength=256) > 0
        ids: NDArray[np.int16] = self._table[values]
        if (ids == _OUTSIDE).any():
            wrong = int(values[ids == _OUTSIDE].min())
            if self.mapped:
                raise DataError(
                    f"{self._path}: mask value {wrong} is not among the mask_values of dataset.yaml "
                    f"({', '.join(map(str, self.mapped))}); add it, with null if it is not annotated"
                )
            raise DataError(
                f"{self._path}: mask value {wrong} is outside the class map (0 to {len(self.class_map) - 1}, "
                f"{IGNORE_LABEL} = not annotated); save class ids, or "
                f"{_KEY.format(value=wrong, name=self.class_map.names[-1])}"
            )
        return ids

    def finish(self, is_color: bool, is_palette: bool) -> tuple[str, ...]:
        """Return what the values of the whole image give reason to say, after its last block.

        Args:
            is_color: whether the values stand for the colours of the class map.
            is_palette: whether they are indices of a palette.

        Raises:
            DataError: they are exactly 0 and 255, and 255 may be a class or "not annotated".
        """
        seen = set(np.flatnonzero(self._seen).tolist())
        if self.mapped or self.has_instances or is_color or not seen:
            return ()
        names = self.class_map.names
        if seen == {0, IGNORE_LABEL}:
            raise DataError(
                f"{self._path}: holds only the values 0 and 255, and 255 means 'not annotated' here, not a class; say "
                f"in dataset.yaml which is meant: mask_values: {{0: null, 255: {names[-1]}}} or {{0: {names[0]}, 255: "
                f"{names[-1]}}} if 255 is a class, {{0: {names[0]}, 255: null}} if it is 'not annotated'"
            )
        if seen == {IGNORE_LABEL}:
            return (
                f"the mask holds only 255, 'not annotated'; if 255 is a class, "
                f"{_KEY.format(value=255, name=names[-1])}",
            )
        if len(names) > 2 and 1 in seen and seen <= {0, 1, IGNORE_LABEL} and not is_palette:
            return (
                f"the mask holds only 0 ({names[0]!r}) and 1 ({names[1]!r}) of {len(names)} classes; if it shows "
                f"another class, {_KEY.format(value=1, name=names[-1])}",
            )
        return ()
