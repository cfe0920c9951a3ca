"""Provenance of the numbers: values given by the caller and values recorded in the results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tissuebench.common.hashing import Json, canonical_json
from tissuebench.results.records.trial_result import SCHEMA_VERSION
from tissuebench.results.report.styles import plain
from tissuebench.results.report.view import View

_OF_A_TRIAL = ("method", "config", "budget", "seed")
"""Parts of an identity that may differ between the trials of one comparison."""
_TOLD_ELSEWHERE = ("dataset", "split", "store", *_OF_A_TRIAL)


def provenance(view: View) -> Mapping[str, Json]:
    """Return nested names and values in display order: those of the subject, then those recorded in its results."""
    results = view.subject.results
    identities = [result.identity for result in results]
    environments = [result.environment for result in results]
    found: dict[str, Json] = dict(view.subject.provenance)
    found["split"] = {
        "sha256": _values([identity.get("split") for identity in identities]),
        "test patients": len({name for result in results for name in result.patient_ids}),
        "test slides": len({name for result in results for name in result.slide_ids}),
    }
    found["budgets (assumed minutes, and the sha256 of what was bought)"] = _budgets(view)
    found["trials"] = {
        "finished": len(results),
        "failed": len(view.subject.failures),
        "draws of a budget": sorted({result.replicate for result in results if not result.everything}),
        "seeds": sorted({result.seed for result in results}),
        "schema of results": SCHEMA_VERSION,
    }
    found["settings of all trials"] = {
        name: _values([one.get(name) for one in identities])
        for name in _names(identities)
        if name not in _TOLD_ELSEWHERE
    }
    found["settings of methods"] = {
        view.styles[method].name: _values([one.identity.get("config") for one in results if one.method == method])
        for method in sorted({result.method for result in results})
        if method in view.styles
    }
    found["environment"] = {name: _values([one.get(name) for one in environments]) for name in _names(environments)}
    return found


def _budgets(view: View) -> dict[str, Json]:
    """Return minutes and the hash of each draw by budget, cheapest first."""
    minutes: dict[str, set[float]] = defaultdict(set)
    draws: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for result in sorted(view.subject.results, key=lambda one: (one.minutes, one.budget, one.replicate)):
        minutes[result.budget].add(round(result.minutes, 2))
        draws[result.budget][f"draw {result.replicate}"].add(str(result.identity.get("budget")))
    return {
        name: {"minutes": sorted(spent), **{draw: sorted(hashes) for draw, hashes in draws[name].items()}}
        for name, spent in minutes.items()
    }


def words(value: Json) -> str | None:
    """Format a value on one line; None if it is a nonempty mapping or a list with one."""
    if isinstance(value, Mapping):
        return None if value else "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        parts = [words(one) for one in value]
        return None if None in parts else ", ".join(map(str, parts)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else plain(str(value))


def pairs_of(value: Json) -> list[tuple[str, Json]]:
    """Return names and values of a mapping, or positions (from 1) and values of a list."""
    if isinstance(value, Mapping):
        return [(plain(str(name)), one) for name, one in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [(str(i + 1), one) for i, one in enumerate(value)]
    return []


def _names(mappings: Sequence[Mapping[str, Json]]) -> list[str]:
    return sorted({name for one in mappings for name in one})


def _values(values: Sequence[Json]) -> Json:
    """Return the common value, or the list of distinct values if they differ."""
    distinct = {canonical_json(value): value for value in values}
    return next(iter(distinct.values())) if len(distinct) == 1 else [distinct[key] for key in sorted(distinct)]
