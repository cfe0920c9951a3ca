"""Execution of a task in a worker: features of a shard, one stage, or the last stage of a trial and its evaluation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback
from numpy.typing import NDArray
from torch import Tensor

from tissuebench.common.hashing import Json, derive_seed
from tissuebench.datasets.ingest.dataset import dataset_folder
from tissuebench.datasets.labels.view import LabelView
from tissuebench.datasets.loading.datamodule import TileDataModule
from tissuebench.datasets.splits import Split
from tissuebench.datasets.store.tile_store import TileStore
from tissuebench.datasets.types import Tile
from tissuebench.diagnostics.pseudo_mask_quality import read_quality, write_quality
from tissuebench.diagnostics.snapshot_files import last_snapshot
from tissuebench.diagnostics.snapshots import snapshot_callback
from tissuebench.errors import DataError
from tissuebench.evaluation.evaluate import CountedSlide, evaluate, stored_objects
from tissuebench.evaluation.overlays import TilePicker
from tissuebench.features.records import Records
from tissuebench.methods.api.stage import Stage, Trainable
from tissuebench.plans.expand import PlannedData
from tissuebench.plans.trial import Trial
from tissuebench.results.records.pseudo_mask_quality import PseudoQuality
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.records.trial_result import SlideCounts, TrialResult
from tissuebench.results.tables.comparable import results_folder
from tissuebench.runtime.determinism import deterministic_algorithms, is_deterministic
from tissuebench.runtime.environment import describe_environment
from tissuebench.runtime.machine import Machine
from tissuebench.runtime.processes import World
from tissuebench.sweep.features import run_shard, tile_features, window_features
from tissuebench.sweep.graph import augmentation_of, held_out_of
from tissuebench.sweep.jobs import Job, TaskKind
from tissuebench.sweep.machine import describe_hardware, machine_of, stage_of
from tissuebench.sweep.state.folders import read_record, task_folder, write_record
from tissuebench.training.build import build_datamodule, build_method, stage_datamodule, task_of, validation_of
from tissuebench.training.checkpoint_selection import KeepBest
from tissuebench.training.fit import Fit, Interrupted, fit, seed_everything, weights_of
from tissuebench.training.loggers import loggers_of
from tissuebench.training.pseudo_mask_store import PseudoMasks, write_pseudo_masks
from tissuebench.training.validation import Validation

_ANNOTATED_AT_ONCE = 16
_TAKEN = ("steps", "annotated_steps", "samples", "tiles_per_second", "waiting", "peak_memory")


@dataclass(slots=True)
class Surroundings:
    """Context that a worker process provides to every task that it runs.

    Attributes:
        world: this process among those of the trial.
        checkpoint_minutes: minutes between two checkpoints.
        report: called with the name of a phase, the amount done and the total.
        stop: whether the task is to be handed back.
        peak_memory: peak memory in bytes since the task was started.
        stores: open datasets; a sealed store never changes.
        held: features in the memory of this process, by the key of their shard.
    """

    world: World
    checkpoint_minutes: float
    report: Callable[[str, int, int], None]
    stop: Callable[[], bool]
    peak_memory: Callable[[], int]
    stores: dict[tuple[Path, str, str], PlannedData] = field(default_factory=dict)
    held: dict[str, Records] = field(default_factory=dict)

    @property
    def held_bytes(self) -> int:
        """Bytes of the features in memory."""
        return sum(records.n_bytes for records in self.held.values())

    def moved(self, phase: str, done: int, total: int) -> None:
        """Report progress, and hand the task back if requested.

        Raises:
            Interrupted: the task is to be handed back.
        """
        self.report(phase, done, total)
        if self.world.size == 1 and self.stop():
            raise Interrupted


def run_task(job: Job, around: Surroundings, may_store: Callable[[], None]) -> dict[str, Json]:
    """Run one task to its end and return its cost, for the journal.

    Args:
        job: the task.
        around: the context that this process provides.
        may_store: called just before the artefact is sealed; raises if another process has taken the task over.
    """
    trial = Trial.of_document(job.document["trial"])  # type: ignore[arg-type]  # JSON that we wrote
    trial.check_weights()
    data = _opened(job.home, trial, around)
    folder = task_folder(job.home, job.kind, job.key)
    if job.kind is TaskKind.FEATURES and around.world.rank > 0:
        return {}  # a shard is the work of a single process
    machine = machine_of(job, trial, around.world)
    with deterministic_algorithms(is_deterministic(trial.training.deterministic, machine.device)):
        if job.kind is TaskKind.FEATURES:
            return run_shard(job, trial, data, folder, machine, around.moved, may_store)
        run = _run_stage if job.kind is TaskKind.STAGE else _run_trial
        return run(job, trial, data, folder, machine, around, may_store)


def _run_stage(
    job: Job,
    trial: Trial,
    data: PlannedData,
    folder: Path,
    machine: Machine,
    around: Surroundings,
    may_store: Callable[[], None],
) -> dict[str, Json]:
    stage = stage_of(job, trial)
    seed, augmentation = derive_seed(trial.seed, "stage", stage.name), augmentation_of(trial, stage)
    seed_everything(derive_seed(trial.seed, "init"))  # it starts from the network that all methods start from
    module = stage.module(task_of(data, trial.network, stage.training, augmentation.crop_px), stage.config)
    weights, pseudo = _inherited(job)
    held_out = held_out_of(trial, stage)
    view = LabelView.for_training(data.store, data.split, trial.budget, stage.consumes, held_out)
    features = tile_features(job, trial, data, machine, around.held, around.moved)
    datamodule = stage_datamodule(
        f"stage {stage.name!r}",
        module,
        stage.consumes,
        view,
        seed,
        augmentation,
        data,
        features,
        machine,
        pseudo,
    )
    said = _begin(module, datamodule, weights, machine, around)
    look = snapshot_callback(module, data.store, data.split, folder) if around.world.rank == 0 else None
    fitted = _fit(job, module, datamodule, folder, seed, machine, around, watchers=[look] if look else [])
    started = time.perf_counter()
    if stage.annotates is not None and around.world.rank == 0:
        module.to(machine.device)
        write_pseudo_masks(folder, _annotated(stage, stage.annotates, module, datamodule, machine, around))
    took: dict[str, Json] = {
        "steps": fitted.steps,
        "annotated_steps": fitted.steps * module.is_annotated,
        "samples": fitted.samples,
        "seconds": fitted.seconds + time.perf_counter() - started,
        "tiles_per_second": fitted.samples / max(fitted.seconds, 1e-9),
        "waiting": fitted.waiting,
        "peak_memory": around.peak_memory(),
    }
    if around.world.rank == 0:
        if (seen := last_snapshot(folder)) is not None:
            took["figures"] = {name: value for name, value in seen[0].items() if name != "step"}
        if stage.annotates is not None:  # for inspection, not counted as a cost of the method
            compared = partial(around.moved, f"{stage.name}: comparing pseudo-masks")
            write_quality(folder, data.store, data.split, module.layers, compared)
        may_store()
        _log_notes(module, around, said)
        notes: dict[str, Json] = {"notes": list(module.notes)} if module.notes else {}
        environment = {**describe_environment(), **describe_hardware(trial, machine, around.world)}
        write_record(folder, {**took, **notes, "stage": stage.name, "environment": environment})
    return took


def _begin(
    module: Trainable[Any],
    datamodule: TileDataModule,
    weights: Mapping[str, Mapping[str, Tensor]],
    machine: Machine,
    around: Surroundings,
) -> int:
    """Prepare a stage before its first step, and before an interrupted fit is restored.

    Returns:
        Number of notes that are in the log.
    """
    if machine.remark:
        module.note(machine.remark)
    module.survey(datamodule.steps.all_tags())
    if datamodule.steps.n_untagged:
        module.note(f"{datamodule.steps.n_untagged} tagged tiles list no class: a balanced stream never draws them")
    if weights:
        module.inherit(weights)
    return _log_notes(module, around, 0)


def _log_notes(module: Trainable[Any], around: Surroundings, said: int) -> int:
    """Print the notes from number ``said`` on into the worker's log, and return how many there are now."""
    if around.world.rank == 0:
        for text in module.notes[said:]:
            print(f"note: {text}", file=sys.stderr, flush=True)
    return len(module.notes)


def _annotated(
    stage: Stage,
    stream: str,
    module: Trainable[Any],
    datamodule: TileDataModule,
    machine: Machine,
    around: Surroundings,
) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
    module.eval()
    tiles = datamodule.steps.tiles(stream)
    for start in range(0, len(tiles), _ANNOTATED_AT_ONCE):
        chunk = tiles[start : start + _ANNOTATED_AT_ONCE]
        batch = datamodule.steps.load(stream, chunk).to(machine.device)
        layers = module.annotate(batch)  # the method decides on gradients: class activation maps need them
        yield from zip(chunk, layers.detach().cpu().numpy(), strict=True)
        around.moved(f"{stage.name}: annotating tiles", start + len(chunk), len(tiles))


def _run_trial(
    job: Job,
    trial: Trial,
    data: PlannedData,
    folder: Path,
    machine: Machine,
    around: Surroundings,
    may_store: Callable[[], None],
) -> dict[str, Json]:
    method = build_method(trial, data)
    weights, pseudo = _inherited(job)
    features = tile_features(job, trial, data, machine, around.held, around.moved)
    windows = window_features(job, trial, data, machine, around.held, around.moved)
    datamodule = build_datamodule(trial, method, data, features, machine, pseudo)
    said = _begin(method, datamodule, weights, machine, around)
    validation, keep_best = validation_of(trial, data, machine, around.world)
    fitted = _fit(job, method, datamodule, folder, trial.seed, machine, around, validation, keep_best)
    started = time.perf_counter()
    method.to(machine.device)
    view = LabelView.for_evaluation(data.store, data.split, trial.evaluation.part)
    picker = TilePicker(data.store)
    scored = evaluate(
        method,
        data.store,
        view,
        trial.evaluation,
        machine.device,
        machine.precision,
        around.world,
        partial(around.moved, "scoring slides"),
        picker,
        windows,
    )
    picker.join()
    rows = [_row(one) for one in scored]
    seconds = {"fit": fitted.seconds, "evaluate": time.perf_counter() - started}
    compute: dict[str, float] = {
        "steps": fitted.steps,
        "annotated_steps": fitted.steps * method.is_annotated,
        "samples": fitted.samples,
        "tiles_per_second": fitted.samples / max(fitted.seconds, 1e-9),
        "waiting": fitted.waiting,
        "peak_memory": around.peak_memory(),
    }
    if fitted.selected_step is not None:
        compute["selected_step"] = fitted.selected_step
    notes: list[str] = []
    pseudo_masks: dict[str, PseudoQuality] = {}
    earlier: dict[str, Json] = {}
    for stage, key in _needs(job).items():
        made = task_folder(job.home, TaskKind.STAGE, key)
        record = read_record(made)
        if (quality := read_quality(made)) is not None:
            pseudo_masks[stage] = quality
        earlier[stage] = {name: record["environment"].get(name) for name in ("precision", "device", "deterministic")}
        notes += [f"{stage}: {text}" for text in record.get("notes", ())]
        seconds[f"stage/{stage}"] = record["seconds"]
        of_stage = {what: record[what] for what in _TAKEN if what in record} | record.get("figures", {})
        compute |= {f"{what}/{stage}": value for what, value in of_stage.items()}
    _log_notes(method, around, said)
    notes += [text for text in method.notes if not any(said_before.endswith(text) for said_before in notes)]
    environment = describe_hardware(trial, machine, around.world)
    if earlier:
        environment["earlier_stages"] = earlier
    if notes:
        environment["notes"] = list(notes)
    if around.world.rank == 0:
        may_store()
        picker.write(job.home, trial.id)
        ResultStore(results_folder(job.home)).write(
            TrialResult(
                trial_id=trial.id,
                dataset=trial.dataset,
                method=trial.arm,
                budget=trial.budget.spec,
                minutes=trial.minutes,
                replicate=trial.budget.replicate,
                seed=trial.seed,
                classes=data.store.class_map.names,
                colors=data.store.class_map.colors,
                diagnoses=data.store.class_map.diagnoses,
                **TrialResult.columns(rows),
                objects=stored_objects(scored, data.store, trial.evaluation),
                identity=trial.identity(),
                environment={**describe_environment(), **environment},
                seconds=seconds,
                compute=compute,
                pseudo_masks=pseudo_masks,
                everything=trial.budget.everything,
            )
        )
    return {"steps": fitted.steps, "seconds": sum(seconds[name] for name in ("fit", "evaluate"))}


def _row(one: CountedSlide) -> SlideCounts:
    slide, diagnosis = one.slide, ";".join(one.diagnosis)
    return SlideCounts(
        slide.patient_id, slide.slide_id, diagnosis, one.counts, one.boundaries, one.calibration, one.seconds, one.areas
    )


def _fit(
    job: Job,
    module: Trainable[Any],
    datamodule: TileDataModule,
    folder: Path,
    seed: int,
    machine: Machine,
    around: Surroundings,
    validation: Validation | None = None,
    keep_best: KeepBest | None = None,
    watchers: Sequence[Callback] = (),
) -> Fit:
    steps = module.task.training.steps
    tracking: Any = job.document.get("tracking", ())
    return fit(
        module,
        datamodule,
        folder,
        seed,
        machine,
        lambda done: around.report("training", done, steps),
        checkpoint_minutes=around.checkpoint_minutes,
        validation=validation,
        keep_best=keep_best,
        world=around.world,
        stop=around.stop,
        watchers=watchers,
        open_loggers=loggers_of(tracking),
    )


def _needs(job: Job) -> dict[str, str]:
    needs: Any = job.document["needs"]
    return dict(needs)


def _inherited(job: Job) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, PseudoMasks]]:
    """Return weights and pseudo-masks of the earlier stages, by name."""
    folders = {name: task_folder(job.home, TaskKind.STAGE, key) for name, key in _needs(job).items()}
    weights: dict[str, Mapping[str, Tensor]] = {name: weights_of(folder) for name, folder in folders.items()}
    return weights, {name: PseudoMasks(folder) for name, folder in folders.items() if PseudoMasks.stand_in(folder)}


def _opened(home: Path, trial: Trial, around: Surroundings) -> PlannedData:
    key = (home, trial.store_sha256, trial.split_sha256)
    if key not in around.stores:
        folder = dataset_folder(home, trial.dataset)
        opened = PlannedData(TileStore(folder / "store.zarr"), Split.read(folder / "split.json"))
        if (opened.store.content_hash, opened.split.sha256) != key[1:]:
            raise DataError(f"{folder}: store or split has changed since the plan was made; run the command again")
        around.stores[key] = opened
    return around.stores[key]
