"""Tables of a dataset as CSV and JSON: a file for each group of comparable results, so that none replaces another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tissuebench.common.files import write_aside
from tissuebench.common.hashing import Json
from tissuebench.results.render.terminal import to_json
from tissuebench.results.tables.comparable import Group, long_name, settings_key, table_names
from tissuebench.results.tables.leaderboard import LeaderboardRow, build

_FORMATS = ("csv", "json")


def write_tables(
    folder: Path, dataset: str, groups: Sequence[Group], own: Mapping[str, Json], rows: Sequence[LeaderboardRow]
) -> Path:
    """Write the table of one group, and those of groups that have no file, as the main one used to be another.

    Args:
        folder: created if missing.
        dataset: name of the dataset.
        groups: its groups, ranked as by ``groups_of``.
        own: identity of a trial of the group to write, which need not have results.
        rows: rows of its table.

    Returns:
        The CSV file of that group.
    """
    names = table_names(dataset, groups, own)
    results = {group.key: group.results for group in groups}
    for key, name in names.items():
        if key == settings_key(own):
            _write(folder / name, rows)
        elif not _path(folder / name, "csv").is_file():
            _write(folder / name, build(results[key]).rows)
        if name != (before := long_name(name, key)):  # of the time when it was not the main one
            for form in _FORMATS:
                _path(folder / before, form).unlink(missing_ok=True)
    return _path(folder / names[settings_key(own)], "csv")


def _write(stem: Path, rows: Sequence[LeaderboardRow]) -> None:
    from tissuebench.results.frames.rows import leaderboard_csv  # pandas, which a run needs for nothing else

    for form, text in (("csv", leaderboard_csv(rows)), ("json", to_json(rows))):
        write_aside(_path(stem, form), text.encode())


def _path(stem: Path, form: str) -> Path:
    return stem.with_name(f"{stem.name}.{form}")
