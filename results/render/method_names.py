"""Names of method variants: a method, with the settings that differ from its defaults in brackets."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Set

from tissuebench.errors import DataError, unknown_name
from tissuebench.results.records.trial_result import method_of

_LONGEST = 40
_OPEN, _CLOSE = "[({", "])}"
_KEY = re.compile(r"\w[\w.]*=")


def short_names(arms: Set[str], longest: int = _LONGEST) -> tuple[dict[str, str], dict[str, str]]:
    """Shorten the names of variants that stand in one table.

    The only variant of a method is called by the method. Of several, each has the settings in brackets that not all of
    them have, or, if that is longer than ``longest``, a number.

    Returns:
        Short names by variant, each different; and by short name all settings that differ from the method's defaults,
        for those that leave some out.

    Examples:
        >>> names, settings = short_names({"mine[a=1,b=2]", "mine[a=1,b=3]", "plain[c=4]"})
        >>> names["mine[a=1,b=3]"], names["plain[c=4]"], settings["plain"]
        ('mine[b=3]', 'plain', 'c=4')
    """
    variants: dict[str, list[str]] = defaultdict(list)
    for arm in sorted(arms):
        variants[method_of(arm)].append(arm)
    names, settings = {}, {}
    for method, siblings in variants.items():
        changed = {arm: list(_settings(arm)) for arm in siblings}
        common = set.intersection(*map(set, changed.values()))
        for number, arm in enumerate(siblings, start=1):
            own = [setting for setting in changed[arm] if setting not in common]
            name = f"{method}[{','.join(own)}]" if own else method
            if len(siblings) > 1 and len(name) > longest:
                name = f"{method}#{number}"
            names[arm] = name
            if name != arm:
                settings[name] = ", ".join(changed[arm]) or "default settings"
    return names, settings


def find_arm(name: str, arms: Collection[str], where: str) -> str:
    """Return the method variant of this name, in full or as a table has it, or the only variant of this method.

    Args:
        name: with or without settings.
        arms: known method variants.
        where: context of the names, for the error message.

    Raises:
        DataError: no variant matches, or several do.
    """
    if name in arms:
        return name
    found = sorted(arm for arm in arms if method_of(arm) == name)
    if not found:  # not the short name that is a method's: it would choose among variants without a word
        found = [arm for arm, short in short_names(set(arms))[0].items() if short == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{where}: {len(found)} variants of method {name!r} have results; choose one: {', '.join(found)}"
        )
    raise DataError(f"{where}: {unknown_name('method', name, arms)}")


def _settings(arm: str) -> Iterator[str]:
    """Yield ``key=value`` for each setting in the brackets of a name; those within settings as ``outer.key=value``."""
    inside, depth, start = arm.partition("[")[2][:-1], 0, 0
    for i, character in enumerate(inside):
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == "," and depth == 0 and _KEY.match(inside, i + 1):
            yield from _flat(inside[start:i])
            start = i + 1
    if inside:
        yield from _flat(inside[start:])


def _flat(setting: str) -> Iterator[str]:
    key, _, value = setting.partition("=")
    try:
        nested = ast.literal_eval(value) if value.startswith("{") else None
    except (ValueError, SyntaxError):
        nested = None
    if isinstance(nested, dict) and nested:
        for inner, each in nested.items():
            yield from _flat(f"{key}.{inner}={each}")
    else:
        yield setting
