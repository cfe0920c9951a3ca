"""Preview of a run, which writes nothing: its tasks on data that are ingested, its trials on data that are not yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tissuebench.bench import BenchRequest, lay_out, open_data, read_plan, remarks_on
from tissuebench.common.hashing import Json
from tissuebench.common.progress import ProgressDisplay, stderr_console
from tissuebench.datasets.catalog.recipe import Recipe
from tissuebench.datasets.ingest.dataset import dataset_folder, find_dataset
from tissuebench.datasets.ingest.ingest import ensure_store, known_source
from tissuebench.plans.expand import PlannedData, planned_cells
from tissuebench.sweep.estimate.overview import TrialGroup
from tissuebench.sweep.graph import Sweep


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview of a run.

    Attributes:
        sweep: its tasks on the datasets that are ingested; None if none is.
        planned: trials on the other datasets, as rows of an overview.
        lines: notes on the sweep, and the planned trials as sentences, with what would be done to their data first.
    """

    sweep: Sweep | None
    planned: Sequence[Mapping[str, Json]]
    lines: Sequence[str]


def preview(request: BenchRequest) -> Preview:
    """Preview a run; nothing is drawn, ingested, trained or written.

    Raises:
        TissueBenchError: bad input or configuration, as far as it shows without ingesting data.
    """
    plan, methods = read_plan(request)
    opened: dict[str, PlannedData] = {}
    planned: list[TrialGroup] = []
    lines: list[str] = []
    with ProgressDisplay(stderr_console()) as display:
        for name in request.datasets or plan.datasets:
            root = request.data_roots.get(name)
            recipe = find_dataset(name, root, request.home)
            made_first = _made_first(recipe, request.home, root)
            if not made_first:
                data = open_data(name, root, request.home, display)
                opened[data.store.info.dataset] = data
                continue
            groups = [
                TrialGroup(recipe.name, method, budget, trials=count, finished=0, to_run=count, failed=0)
                for (method, budget), count in planned_cells(plan, methods).items()
            ]
            planned += groups
            lines.append(f"{recipe.name}: {made_first}; its trials, as far as the plan tells without the data:")
            lines += [f"{_trials(one.trials)} of {one.method} {one.budget}: to run" for one in groups]
    sweep = lay_out(plan, methods, opened, request.home, store_budgets=False) if opened else None
    notes = [*sweep.notes, *remarks_on(sweep)] if sweep else []
    return Preview(sweep, [asdict(one) for one in planned], [*notes, *lines])


def _made_first(recipe: Recipe, home: Path, data_root: Path | None) -> str:
    """Return what a run would do to the data before anything else; empty if the store is there.

    Raises:
        DataError: the source files are missing, or their manifest is unusable.
    """
    folder = dataset_folder(home, recipe.name)
    if (folder / "store.zarr").exists():
        return "" if (folder / "split.json").exists() else "its patients would be split first"
    data_root = data_root or known_source(home, recipe)
    if data_root is not None and data_root.is_dir():
        return f"{_slides(len(recipe.rows(data_root)))} would be ingested first"
    if data_root is None and recipe.generate is not None:
        return "its slides would be drawn and ingested first"
    ensure_store(recipe, home, data_root, lambda *_: None)  # there is nothing to make it from: it says so
    return ""


def _slides(count: int) -> str:
    return f"{count} slide" if count == 1 else f"{count} slides"


def _trials(count: int) -> str:
    return f"{count} trial" if count == 1 else f"{count} trials"
