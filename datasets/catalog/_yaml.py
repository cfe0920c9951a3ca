"""YAML as people write it: keys that are there twice, names that YAML takes for something else, odd encodings."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import yaml

from tissuebench.common.text_files import read_text
from tissuebench.errors import DataError

_TEXT = "tag:yaml.org,2002:str"
_TAKEN_FOR = {"bool": "true or false", "null": "nothing", "int": "a number", "float": "a number", "timestamp": "a date"}
_Place = tuple[str, ...]


class Names(StrEnum):
    """Kind of text that a top-level key holds: names as its keys (of a list: its items), as values, or as both."""

    KEYS = "keys"
    VALUES = "values"
    BOTH = "both"


def load_yaml(path: Path, names: Mapping[str, Names], nothing: Container[str]) -> object:
    """Return the content of a YAML file, with composed umlauts.

    Args:
        path: the file, in UTF-8, or in UTF-16 with a byte order mark.
        names: top-level keys that hold names.
        nothing: those of them whose values may be null.

    Raises:
        FileNotFoundError: no such file.
        DataError: not text, not YAML, a key is there twice, or a name that YAML takes for a number or a truth value;
            names the line.
    """
    text = unicodedata.normalize("NFC", read_text(path, "save it as UTF-8"))
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(root, yaml.MappingNode):
            _require_single_keys(path, root)
            for key, value in root.value:
                if key.value in names:
                    _require_names(path, key.value, value, names[key.value], key.value in nothing)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        tabs = "; indent with blanks, not with tabs" if "'\\t'" in str(error) else ""
        raise DataError(f"{path}: not YAML: {' '.join(str(error).split())}{tabs}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _require_single_keys(path: Path, root: yaml.Node) -> None:
    for node, place in _nodes(root):
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f" of {'.'.join(place)!r}" if place else ""
                raise DataError(
                    f"{path}: key {key.value!r}{where} is there twice (lines {lines[key.value]} and {line}); keep one"
                )
            lines[key.value] = line


def _nodes(root: yaml.Node) -> Iterator[tuple[yaml.Node, _Place]]:
    """Yield every node with the keys that lead to it, once, even if aliases lead there again."""
    waiting: list[tuple[yaml.Node, _Place]] = [(root, ())]
    seen: set[int] = set()
    while waiting:
        node, place = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node, place
        if isinstance(node, yaml.MappingNode):
            waiting += [(value, (*place, str(key.value))) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(value, place) for value in node.value]


def _require_names(path: Path, key: str, value: yaml.Node, kind: Names, may_be_null: bool) -> None:
    is_list = isinstance(value, yaml.SequenceNode)
    for node, _ in _nodes(value):
        if isinstance(node, yaml.MappingNode) and kind is not Names.VALUES:
            for inner, _value in node.value:
                _require_name(path, key, inner, may_be_null=False)
        elif isinstance(node, yaml.ScalarNode) and (kind is not Names.KEYS or is_list):
            _require_name(path, key, node, may_be_null)


def _require_name(path: Path, key: str, node: yaml.Node, may_be_null: bool) -> None:
    kind = node.tag.rpartition(":")[2]
    if node.tag == _TEXT or kind not in _TAKEN_FOR or (kind == "null" and may_be_null):
        return
    raise DataError(
        f"{path}: key {key!r}, line {node.start_mark.line + 1}: {node.value or 'an empty value'!r} is "
        f'{_TAKEN_FOR[kind]} to YAML; if it is a name, put it in quotation marks: "{node.value}"'
    )
