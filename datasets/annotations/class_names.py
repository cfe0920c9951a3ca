"""Names of classes in annotation files: the class map's own, those of the dataset's table, and what is left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from tissuebench.common.text_files import known_as, tidy
from tissuebench.datasets.types import ClassMap
from tissuebench.errors import DataError, closest, unknown_name

_NOT_LABELS = ("ignore*", "region*")
"""QuPath's own classes for areas that are no label; with an asterisk, which is part of the name."""
_PLAIN = re.compile(r"\w[\w .-]*")
_UNKNOWN = -1
_NO_CLASS = ""


@dataclass(slots=True)
class ClassNames:
    """Mapping from the names in one file to class ids; counts what is left out and what is unknown.

    A name is looked up in the table as it is, in the class map, among the table's patterns, in the class map without
    regard to capitals, and among QuPath's ``Ignore*`` and ``Region*``, which are left out, as are areas without a name.

    Attributes:
        path: the file, for messages.
        class_map: the classes.
        region_class: class of all regions, whatever the file calls them; None uses the file's names.
        program: annotation program in which to correct the file, for messages.
        table: class that a name or a pattern stands for; None leaves its regions out.
    """

    path: Path
    class_map: ClassMap
    region_class: str | None
    program: str
    table: Mapping[str, str | None] = field(default_factory=dict)
    _own: dict[str, int] = field(init=False)
    _known: dict[str, int | None] = field(default_factory=dict)
    _left_out: Counter[str] = field(default_factory=Counter)
    _respelled: Counter[tuple[str, str]] = field(default_factory=Counter)
    _unknown: Counter[str] = field(default_factory=Counter)
    _first: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note the names that need no looking up: files have tens of thousands of areas with a handful of names."""
        self._own = {name: index for index, name in enumerate(self.class_map.names) if name not in self.table}

    def is_class(self, name: str) -> bool:
        """Return whether a class or a key of the table has exactly this name."""
        return tidy(name) in self.class_map.names or any(tidy(key) == tidy(name) for key in self.table)

    def knows(self, name: str) -> bool:
        """Return whether the name stands for a class, or for what is left out."""
        return self._meaning(name) != _UNKNOWN

    def class_id(self, where: str, names: Sequence[str]) -> int | None:
        """Return the id of the single class among a region's names; None leaves the region out.

        An unknown name leaves it out for now: ``finish`` raises with all of them.

        Args:
            where: the region, for messages.
            names: names from the file, most reliable first; empty ones are ignored.

        Raises:
            DataError: names of two different classes.
        """
        if self.region_class is not None:
            return self.class_map.names.index(self.region_class)
        if len(names) == 1 and names[0] in self._own:
            return self._own[names[0]]
        said = [name for name in map(tidy, names) if name] or [""]
        meant = {name: self._meaning(name) for name in said}
        classes = {found: name for name, found in reversed(meant.items()) if found is not None and found != _UNKNOWN}
        if len(classes) > 1:
            other, one = list(classes.values())[-2:]
            raise DataError(
                f"{self.path}: {where} is called {one!r} and {other!r}, which are two classes; "
                f"keep one in {self.program}"
            )
        for found, name in classes.items():
            own = self.class_map.names[found]
            if name != own and name.casefold() == own.casefold():
                self._respelled[name, own] += 1
            return found
        skipped = next((name for name, found in meant.items() if found is None), None)
        if skipped is not None:
            self._left_out[skipped] += 1
        else:
            self._unknown[said[0]] += 1
            self._first.setdefault(said[0], where)
        return None

    def finish(self) -> list[str]:
        """Return notes on the regions that were left out and on names in other capitals, after the last region.

        Raises:
            DataError: names that stand for no class; all of them, with what to write in ``dataset.yaml``.
        """
        if self._unknown:
            raise DataError(f"{self.path}: {self._complaint()}")
        notes = []
        if self._left_out:
            shares = [
                f"{count} {name!r}" if name else f"{count} without a class" for name, count in self._left_out.items()
            ]
            notes.append(f"areas left out because they are no label: {', '.join(shares)}")
        notes += [
            f"class {name!r} is read as {known!r} ({_areas(count)})" for (name, known), count in self._respelled.items()
        ]
        return notes

    def _meaning(self, name: str) -> int | None:
        """Return the class id of a name, None if it is left out, ``_UNKNOWN`` if it stands for nothing."""
        if name not in self._known:
            self._known[name] = self._looked_up(tidy(name))
        return self._known[name]

    def _looked_up(self, name: str) -> int | None:
        folded = name.casefold()
        table = {tidy(key): value for key, value in self.table.items()}
        own = known_as(name, self.class_map.names)
        patterns = (value for key, value in table.items() if name and fnmatchcase(folded, key.casefold()))
        if name in table:
            meant = table[name]
        elif own is not None and tidy(own) == name:
            meant = own
        else:
            meant = next(patterns, own or _NO_CLASS)
        if meant == _NO_CLASS:
            return None if not name or folded.split(":")[0] in _NOT_LABELS else _UNKNOWN
        return None if meant is None else self.class_map.names.index(meant)

    def _complaint(self) -> str:
        names = list(self._unknown)
        known = ", ".join(self.class_map.names)
        table = {name: closest(name, self.class_map.names) for name in names}
        line = ", ".join(f"{_in_yaml(name)}: {_in_yaml(near) if near else 'null'}" for name, near in table.items())
        remedy = f"rename in {self.program}, or write in dataset.yaml: class_names: {{{line}}}"
        remedy += " (null leaves out)" if None in table.values() else ""
        if len(names) == 1:
            (name, count), *_ = self._unknown.items()
            place = f"{self._first[name]}" if count == 1 else f"{count} areas, the first is {self._first[name]}"
            return f"{unknown_name('class', name, self.class_map.names)} ({place}); {remedy}"
        shares = ", ".join(f"{name!r} ({_areas(count)})" for name, count in self._unknown.items())
        return f"unknown classes {shares}; known: {known}; {remedy}"


def _in_yaml(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and yaml.safe_load(name) == name else json.dumps(name, ensure_ascii=False)


def _areas(count: int) -> str:
    return "1 area" if count == 1 else f"{count} areas"
