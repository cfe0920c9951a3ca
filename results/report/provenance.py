"""Where the numbers come from: what was handed in, and what the results themselves record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tissuebench.hashing import Json, canonical_json
from tissuebench.results.report.looks import plain, settings
from tissuebench.results.report.view import View
from tissuebench.results.schema import SCHEMA_VERSION

_VARIES = ("method", "config", "budget", "seed")
"""Parts of an identity that differ between the trials of one comparison."""


def provenance(view: View) -> Mapping[str, Json]:
    """Nested names and values, in the order in which they are shown."""
    results = view.subject.results
    found: dict[str, Json] = dict(view.subject.provenance)
    found["trials"] = {
        "finished": len(results),
        "failed": len(view.subject.failures),
        "replicates of a budget": sorted({result.replicate for result in results}),
        "seeds": sorted({result.seed for result in results}),
        "test patients": len({name for result in results for name in result.patient_ids}),
        "test slides": len({name for result in results for name in result.slide_ids}),
        "bootstrap draws": view.subject.board.n_boot,
        "schema of results": SCHEMA_VERSION,
    }
    found["assumed minutes of each budget"] = {name: round(cost, 2) for name, cost in view.budgets}
    environments = [result.environment for result in results]
    found["environment"] = {name: _values([one.get(name) for one in environments]) for name in _names(environments)}
    identities = [result.identity for result in results]
    found["common to all trials"] = {
        name: _values([one.get(name) for one in identities]) for name in _names(identities) if name not in _VARIES
    }
    if said := settings(sorted({result.method for result in results})):
        found["settings of methods"] = dict(said)
    return found


def words(value: Json) -> str | None:
    """A value on one line; None if it has names of its own, or lists of these."""
    if isinstance(value, Mapping):
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [words(one) for one in value]
        return None if None in parts else ", ".join(map(str, parts)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else plain(str(value))


def pairs_of(value: Json) -> list[tuple[str, Json]]:
    """Names and values of a mapping, or numbers and values of a list."""
    if isinstance(value, Mapping):
        return [(plain(str(name)), one) for name, one in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [(str(i + 1), one) for i, one in enumerate(value)]
    return []


def _names(mappings: Sequence[Mapping[str, Json]]) -> list[str]:
    return sorted({name for one in mappings for name in one})


def _values(values: Sequence[Json]) -> Json:
    """The one value of all, or all that there are."""
    distinct = {canonical_json(value): value for value in values}
    return next(iter(distinct.values())) if len(distinct) == 1 else [distinct[key] for key in sorted(distinct)]
