"""Runs the trials of a plan: a finished one is never run again, a failed one is kept with its reason."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch import LightningModule

from tissuebench.comparison import results_folder
from tissuebench.config import Plan
from tissuebench.datasets.datamodule import TileDataModule
from tissuebench.datasets.views import LabelView
from tissuebench.environment import describe_environment
from tissuebench.errors import ConfigError
from tissuebench.evaluation import evaluate
from tissuebench.features import FeatureBank, ensure_features
from tissuebench.hashing import Json, derive_seed
from tissuebench.machine import Machine, detect_machine
from tissuebench.methods.base import Method, Task
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.registry import find_method
from tissuebench.methods.settings import EncoderMode
from tissuebench.plan import PlannedData
from tissuebench.progress import ProgressDisplay
from tissuebench.results.metrics import miou
from tissuebench.results.schema import SlideCounts as SlideRow
from tissuebench.results.schema import TrialResult
from tissuebench.results.store import Failure, ResultStore
from tissuebench.selection import KeepBest, held_out_patients
from tissuebench.training import fit, seed_everything, write_history
from tissuebench.trial import Trial


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did, by trial id."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]


def trial_folder(home: Path, trial_id: str) -> Path:
    """Where a trial keeps its checkpoint while it runs and its loss curve afterwards."""
    return home / "runs" / "trials" / trial_id


def run_trials(
    trials: Sequence[Trial],
    plan: Plan,
    data: PlannedData,
    home: Path,
    display: ProgressDisplay,
    retry_failed: bool = False,
) -> RunSummary:
    """Run what is not finished.

    Trials that failed before are left alone unless ``retry_failed``. A trial's result does not depend on which trials
    ran before it in this process.
    """
    store = ResultStore(results_folder(home))
    failed_before = {failure.trial_id for failure in store.read_failures()}
    skipped = tuple(trial.id for trial in trials if store.has(trial.id))
    kept = tuple(t.id for t in trials if t.id in failed_before and not retry_failed and t.id not in skipped)
    todo = [trial for trial in trials if trial.id not in skipped and trial.id not in kept]
    if skipped:
        display.note(f"{len(skipped)} of {len(trials)} trials are finished already")
    if kept:
        display.note(f"{len(kept)} trials failed before and are left alone; --retry-failed runs them again")
    if not todo:
        return RunSummary((), skipped, kept)
    machine = detect_machine(plan.network.encoder_mode)
    # A network that cannot be built is bad input, not a failed trial.
    build_segmenter(plan.network, len(data.store.class_map))
    features = None
    if plan.network.encoder_mode is EncoderMode.FROZEN:
        folder = home / "data" / data.store.info.dataset / "features"
        features = ensure_features(
            folder,
            plan,
            data.store,
            data.split,
            machine.device,
            lambda done, total: display.phase("features of the frozen encoder, tiles", done, total),
        )
    display.plan(sum(trial.training.steps for trial in todo))
    done, failed = [], list(kept)
    for number, trial in enumerate(todo, start=1):
        title = f"trial {number}/{len(todo)} {trial.label}"
        started = time.perf_counter()
        try:
            result = run_trial(trial, data, features, machine, trial_folder(home, trial.id), display, title)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            store.write_failure(_failure(trial, reason))
            _clear_checkpoints(trial_folder(home, trial.id))  # what failed is not gone on from
            failed.append(trial.id)
            display.trial_over(trial.training.steps, f"{title} FAILED: {reason}")
            continue
        store.write(result)
        _clear_checkpoints(trial_folder(home, trial.id))
        done.append(trial.id)
        display.trial_over(trial.training.steps, f"{title} done in {time.perf_counter() - started:.0f} s")
    return RunSummary(tuple(done), skipped, tuple(failed))


def build_method(trial: Trial, data: PlannedData) -> Method:
    """The trial's method with its initial weights, which depend on the seed alone."""
    task = Task(data.store.class_map, trial.network, trial.training)
    seed_everything(derive_seed(trial.seed, "init"))
    return find_method(trial.method)(task, trial.config)


def build_datamodule(
    trial: Trial, method: Method, data: PlannedData, features: FeatureBank | None, machine: Machine
) -> TileDataModule:
    """The trial's batches, behind the door that its budget opens.

    Raises:
        ConfigError: a stream wants labels that the method does not declare to consume.
    """
    for name, stream in method.streams().items():
        if stream.supervision not in method.consumes and stream.supervision != "none":
            raise ConfigError(f"method {trial.method!r}: stream {name!r} wants {stream.supervision}, not in consumes")
    held_out = held_out_patients(trial.budget, trial.training.selection_share)
    return TileDataModule(
        data.store,
        LabelView.for_training(data.store, data.split, trial.budget, method.consumes, held_out),
        method.streams(),
        trial.seed,
        trial.training.steps,
        trial.augmentation,
        features,
        machine.loader,
    )


def run_trial(
    trial: Trial,
    data: PlannedData,
    features: FeatureBank | None,
    machine: Machine,
    folder: Path,
    display: ProgressDisplay,
    title: str,
) -> TrialResult:
    """Train and evaluate one trial."""
    method = build_method(trial, data)
    datamodule = build_datamodule(trial, method, data, features, machine)
    folder.mkdir(parents=True, exist_ok=True)
    steps = trial.training.steps
    keep_best = _selection(trial, data, machine)
    fitted = fit(
        method,
        datamodule,
        folder,
        trial.seed,
        machine,
        lambda done: display.steps(title, done, steps),
        keep_best=keep_best,
    )
    write_history(folder / "history.jsonl", fitted.history)
    started = time.perf_counter()
    method.to(machine.device)
    view = LabelView.for_evaluation(data.store, data.split, trial.evaluation.part)
    rows = []
    for scored in evaluate(method, data.store, view, trial.evaluation, machine.device, machine.precision):
        slide = scored.slide
        rows.append(SlideRow(slide.patient_id, slide.slide_id, ";".join(scored.diagnosis), scored.counts))
        display.phase(f"{title}: scoring slides", len(rows), len(view.slides))
    patient_ids, slide_ids, diagnoses, counts = TrialResult.columns(rows)
    environment: dict[str, Json] = {**describe_environment(), "precision": machine.precision}
    return TrialResult(
        trial_id=trial.id,
        dataset=trial.dataset,
        method=trial.arm,
        budget=trial.budget.spec,
        minutes=trial.minutes,
        replicate=trial.budget.replicate,
        seed=trial.seed,
        classes=data.store.class_map.names,
        diagnoses=data.store.class_map.diagnoses,
        patient_ids=patient_ids,
        slide_ids=slide_ids,
        slide_diagnoses=diagnoses,
        counts=counts,
        identity=trial.identity(),
        environment=environment,
        seconds={"fit": fitted.seconds, "evaluate": time.perf_counter() - started},
        compute={
            "steps": fitted.steps,
            "samples": fitted.samples,
            **({"selected_step": keep_best.step} if keep_best else {}),
        },
    )


def _selection(trial: Trial, data: PlannedData, machine: Machine) -> KeepBest | None:
    patients = held_out_patients(trial.budget, trial.training.selection_share)
    if not patients:
        return None
    view = LabelView.for_selection(data.store, data.split, trial.budget, patients)

    def miou_of(module: LightningModule) -> float:
        if not isinstance(module, Method):
            raise TypeError(f"{type(module).__name__} is no Method")
        scored = evaluate(module, data.store, view, trial.evaluation, machine.device, machine.precision)
        return float(miou(np.sum([slide.counts for slide in scored], axis=0)))

    return KeepBest(miou_of, trial.training.selection_every)


def _failure(trial: Trial, reason: str) -> Failure:
    return Failure(
        trial_id=trial.id,
        dataset=trial.dataset,
        method=trial.arm,
        budget=trial.budget.spec,
        replicate=trial.budget.replicate,
        seed=trial.seed,
        reason=reason,
        traceback=traceback.format_exc(),
    )


def _clear_checkpoints(folder: Path) -> None:
    for checkpoint in folder.glob("*.ckpt"):
        if checkpoint.is_dir():
            shutil.rmtree(checkpoint)
        else:
            checkpoint.unlink()
