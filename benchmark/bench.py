"""The main job: open the data, expand the plan, run the missing tasks, publish, and return the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tissuebench.common.progress import ProgressDisplay, stderr_console
from tissuebench.datasets.ingest.dataset import find_dataset
from tissuebench.datasets.ingest.ingest import ensure_store
from tissuebench.errors import ConfigError
from tissuebench.executors.registry import find_executor
from tissuebench.methods.api.registry import find_method
from tissuebench.methods.networks.check_network import check_network
from tissuebench.methods.networks.encoder_spec import spec_of
from tissuebench.methods.networks.encoder_weights import weights_sha256
from tissuebench.plans.expand import PlannedData, configured, expand
from tissuebench.plans.preconditions import check_objects, check_part
from tissuebench.plans.schema import Plan, Tracking, load_plan
from tissuebench.plans.trial import Trial
from tissuebench.results.export.table_files import write_tables
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import TrialResult
from tissuebench.results.tables.comparable import groups_of, results_folder, settings_key, with_remark
from tissuebench.results.tables.leaderboard import CellKey, Leaderboard, build
from tissuebench.sweep.feature_choice import choose_feature_cache
from tissuebench.sweep.graph import Graph, Sweep, SweepTask, build_graph
from tissuebench.sweep.jobs import TaskKind
from tissuebench.sweep.runner import Runner, RunSummary
from tissuebench.sweep.state.record import write_sweep
from tissuebench.sweep.view.live import SweepDisplay
from tissuebench.tracking.publisher import Publisher

_PUBLISH_SECONDS = 120.0
_SAME_MPP = 1.25


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """Everything the user requests of a run.

    Attributes:
        methods: methods to compare; if empty, those of the plan.
        plan: name or path of the plan.
        home: folder with ``data/`` and ``runs/``.
        datasets: datasets to use; if empty, those of the plan.
        data_roots: folders with source files, by dataset.
        overrides: ``key=value`` settings that override the plan.
        retry_failed: run again the tasks that failed before.

    Examples:
        >>> request = BenchRequest(methods=("supervised",), plan="smoke", home=Path("home"), overrides=("seeds=[0]",))
        >>> sweep = prepare(request)
        >>> states_of_trials(sweep, request.home)
    """

    methods: tuple[str, ...]
    plan: str
    home: Path
    datasets: tuple[str, ...] = ()
    data_roots: Mapping[str, Path] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    retry_failed: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Options of ``tissuebench run`` and their values, in turn, that request the same plan."""
        named = [("--method", name) for name in self.methods] + [("--dataset", name) for name in self.datasets]
        pairs = [*named, ("--plan", self.plan), *(("--set", override) for override in self.overrides)]
        return tuple(word for pair in pairs for word in pair)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Tables, one per dataset, the ids of all trials of the plan, and a summary of the run."""

    boards: tuple[Leaderboard, ...]
    trials: tuple[str, ...]
    summary: RunSummary


def open_data(dataset: str, data_root: Path | None, home: Path, display: ProgressDisplay) -> PlannedData:
    """Open the dataset's store and split, creating them first if they are missing; raises as ``ensure_store``."""
    made = ensure_store(find_dataset(dataset, data_root, home), home, data_root, display.phase)
    if made.quarantine:
        look = f"'tissuebench data inspect {made.store.info.dataset}'"
        display.note(f"{len(made.quarantine)} slides are left out; see why with {look}")
    return PlannedData(made.store, made.split)


def prepare(request: BenchRequest) -> Sweep:
    """Read the plan, open the data, and lay out the tasks to run.

    Raises:
        TissueBenchError: bad input or configuration; found before anything is trained.
    """
    plan, methods = read_plan(request)
    opened: dict[str, PlannedData] = {}
    with ProgressDisplay(stderr_console()) as display:
        for name in request.datasets or plan.datasets:
            data = open_data(name, request.data_roots.get(name), request.home, display)
            opened[data.store.info.dataset] = data
    return lay_out(plan, methods, opened, request.home)


def read_plan(request: BenchRequest) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan and the methods to compare, checked as far as that needs no data.

    Raises:
        ConfigError: no such plan, method, encoder, executor or setting, no method at all, or weights that cannot be
            read.
    """
    plan = load_plan(request.plan, request.overrides)
    methods = request.methods or tuple(plan.methods)
    if not methods:
        raise ConfigError(f"plan {request.plan!r} names no methods; choose some (METHOD=… or --method …)")
    configured(plan, methods)  # errors are reported before hours of ingest
    weights_sha256(plan.network)
    find_executor(plan.compute.executor)
    if Tracking.TENSORBOARD in plan.tracking and find_spec("tensorboard") is None:
        raise ConfigError("tracking: tensorboard is not installed: pip install 'tissuebench[tensorboard]'")
    return plan, methods


def lay_out(
    plan: Plan, methods: Sequence[str], opened: Mapping[str, PlannedData], home: Path, store_budgets: bool = True
) -> Sweep:
    """Lay out the tasks of a plan on opened data, by dataset; budgets that are drawn are stored, unless told otherwise.

    Raises:
        ConfigError: see ``check_part``, ``check_objects`` and ``expand``.
    """
    trials: dict[str, list[Trial]] = {}
    tasks: dict[str, SweepTask] = {}
    notes: list[str] = []
    for data in opened.values():
        check_part(data.store, data.split, plan.evaluation.part)
        if plan.evaluation.watch is not None:
            check_part(data.store, data.split, plan.evaluation.watch, "watch")
    check_objects([d.store for d in opened.values()], [d.split for d in opened.values()], plan.evaluation)
    for dataset, data in opened.items():
        tile_px = data.store.info.tile_px
        plan.augmentation.check_crop(tile_px)
        for edge in {tile_px, plan.augmentation.crop_px or tile_px}:
            check_network(plan.network, len(data.store.class_map), edge)
        decided, note = choose_feature_cache(plan, data)
        notes += [note] if note else []
        trials[dataset] = expand(decided, methods, data, home, store_budgets)
        tasks.update(build_graph(trials[dataset], data, home, plan.tracking, plan.compute.precision))
    return Sweep(plan, trials, dict(opened), Graph(tasks), notes)


def remarks_on(sweep: Sweep) -> list[str]:
    """Return what a user should know of a plan before it runs.

    That is: which methods bring their own network, and which data are of another resolution than the encoder's.
    """
    settings = {trial.method: trial.config for trials in sweep.trials.values() for trial in trials}
    own = [name for name, config in settings.items() if find_method(name).brings_network(config)]
    remarks = [f"note: network.encoder does not apply to {', '.join(own)}: own network"] if own else []
    return remarks + _resolutions(sweep)


def _resolutions(sweep: Sweep) -> list[str]:
    entry = spec_of(sweep.plan.network).entry
    if entry is None or not entry.mpps:
        return []
    at = " and ".join(f"{mpp:g}" for mpp in entry.mpps)
    resolutions = {dataset: data.store.info.mpp for dataset, data in sweep.data.items()}
    return [
        f"note: {entry.title} was trained at {at} µm per pixel, {dataset} has {mpp:g}"
        for dataset, mpp in resolutions.items()
        if mpp is not None and all(max(mpp, own) > _SAME_MPP * min(mpp, own) for own in entry.mpps)
    ]


def bench(request: BenchRequest) -> BenchResult:
    """Run a plan to its end.

    Raises:
        TissueBenchError: bad input or configuration; found before anything is trained.
        KeyboardInterrupt: interrupted; the same request picks up where it left off.

    Examples:
        >>> request = BenchRequest(methods=("supervised",), plan="smoke", home=Path("home"), overrides=("seeds=[0]",))
        >>> result = bench(request)
        >>> [(row.method, row.budget, row.mean) for row in result.boards[0].rows if row.metric == "miou"]
    """
    sweep = prepare(request)
    compute = sweep.plan.compute
    find = find_executor(compute.executor)
    write_sweep(request.home, sweep.graph, f"{request.plan} on {', '.join(sweep.trials)}", request.options)
    with (
        SweepDisplay(stderr_console(), sweep.graph) as display,
        Publisher(request.home, is_wanted=Tracking.WANDB in sweep.plan.tracking) as publisher,
    ):
        for note in [*sweep.notes, *remarks_on(sweep)]:
            display.note(note)
        with closing(find(compute, request.home)) as executor:
            summary = Runner(
                sweep.graph, executor, display, compute.retries, request.retry_failed, publisher.changed
            ).run()
        boards = tuple(
            _board(request.home, dataset, trials, publisher, display.note) for dataset, trials in sweep.trials.items()
        )
        if summary.failed or any(board.rows for board in boards):
            display.note(publisher.close(_PUBLISH_SECONDS))
    return BenchResult(boards, tuple(task.key for task in sweep.graph.of_kind(TaskKind.TRIAL)), summary)


def board_of_trials(
    store: ResultStore, trials: Sequence[Trial], results: Sequence[TrialResult] | None = None
) -> Leaderboard:
    """Build the leaderboard of one plan, gaps included, or of these results with the gaps of the plan."""
    counted = Counter((trial.dataset, trial.arm, trial.budget.spec) for trial in trials)
    minutes = {(trial.dataset, trial.arm, trial.budget.spec): trial.minutes for trial in trials}
    expected = [CellKey(*key, n_trials=count, minutes=minutes[key]) for key, count in counted.items()]
    ids = {trial.id for trial in trials}
    failures = [failure for failure in store.read_failures() if failure.trial_id in ids]
    return build(store.load(ids) if results is None else results, expected=expected, failures=failures)


def _board(
    home: Path, dataset: str, trials: Sequence[Trial], publisher: Publisher, note: Callable[[str], None]
) -> Leaderboard:
    """Build the table of a plan on one dataset and pass it to W&B; write that of all comparable trials to its file."""
    store = ResultStore(results_folder(home))
    groups, own = groups_of(store, dataset).get(dataset, []), trials[0].identity()
    board = board_of_trials(store, trials)
    written, ids = board, {trial.id for trial in trials}
    for group in groups:
        if group.key == settings_key(own):
            if not {result.trial_id for result in group.results} <= ids:
                written = board_of_trials(store, trials, group.results)
            board = with_remark(board, group)
    path = write_tables(home / "runs" / "tables", dataset, groups, own, written.rows)
    if path.stem != dataset:
        note(f"{path} holds the table of {dataset} under these settings")
    if board.rows:
        publisher.board(board.rows, [trial.id for trial in trials if store.has(trial.id)], board.efficiency)
    return board


def states_of_trials(sweep: Sweep, home: Path) -> list[str]:
    """Return one line per trial: its id, its title, and whether it has a result."""
    store = ResultStore(results_folder(home))
    states = {task.key: "finished" if store.has(task.key) else "to run" for task in sweep.graph.of_kind(TaskKind.TRIAL)}
    return [f"{key} {sweep.graph[key].job.title}: {state}" for key, state in states.items()]
