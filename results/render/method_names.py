"""Names of method variants: a method, with the settings that differ from its defaults in brackets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Set

from tissuebench.errors import DataError, unknown_name


def short_names(arms: Set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Shorten ``method[settings]`` to ``method`` for only variants; returns names by variant and settings by method."""
    methods = Counter(arm.partition("[")[0] for arm in arms)
    short = {arm: name if methods[name := arm.partition("[")[0]] == 1 else arm for arm in sorted(arms)}
    return short, {name: arm[len(name) + 1 : -1].replace(",", ", ") for arm, name in short.items() if arm != name}


def find_arm(name: str, arms: Collection[str], where: str) -> str:
    """Return the method variant of this name, or the only one with this name plus settings in brackets.

    Args:
        name: with or without settings.
        arms: known method variants.
        where: context of the names, for the error message.

    Raises:
        DataError: no variant matches, or several do.
    """
    if name in arms:
        return name
    found = sorted(arm for arm in arms if arm.partition("[")[0] == name)
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{where}: {len(found)} variants of method {name!r} have results; choose one: {', '.join(found)}"
        )
    raise DataError(f"{where}: {unknown_name('method', name, arms)}")
