"""Prediction of several slides: the folder of each, those that are finished already, and failures of single slides."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tissuebench.common.folders import require_free
from tissuebench.datasets.ingest.fingerprint import fingerprint
from tissuebench.datasets.readers.companions import companions
from tissuebench.errors import ConfigError, DataError, TissueBenchError
from tissuebench.prediction.load_method import Trained
from tissuebench.prediction.options import PredictionOptions
from tissuebench.prediction.predict import Prediction, Predictor, Progress
from tissuebench.prediction.summary import RECORD, SUMMARY, read_prediction, write_summary


@dataclass(frozen=True, slots=True)
class SlideJob:
    """A slide, the folder of its prediction, and whether that is finished already."""

    slide: Path
    folder: Path
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of a job: a prediction, or the reason why there is none; neither if it was finished before."""

    job: SlideJob
    prediction: Prediction | None = None
    failure: str = ""
    seconds: float = 0.0


def lay_out(
    slides: Sequence[Path], trained: Trained, options: PredictionOptions, out: Path | None, overwrite: bool
) -> list[SlideJob]:
    """Return one job per slide, in the order given; files of one slide (a DICOM series) are one.

    The folder of a single slide is ``out``, those of several are in it, named after the slides. Without ``out`` they
    are in the current folder, named after slide and trial. A folder that holds the prediction of the same slide by the
    same trial with the same options is finished.

    Raises:
        ConfigError: two slides would get the same folder, or a folder is taken; found before anything is predicted.
        DataError: a folder's record is damaged.
    """
    slides = _each_once(slides)
    folders = [_folder(slide, trained, out, len(slides) == 1).resolve() for slide in slides]
    same: dict[Path, list[Path]] = defaultdict(list)
    for slide, folder in zip(slides, folders, strict=True):
        same[folder].append(slide)
    for folder, clashing in same.items():
        if len(clashing) > 1:
            raise ConfigError(
                f"{clashing[0]} and {clashing[1]} have the same name: both would be written to {folder}; predict them "
                "in two commands with an --out of their own, or rename one"
            )
    if len(slides) > 1 and out is not None and (out / RECORD).exists():
        raise ConfigError(f"{out}: holds the prediction of one slide; choose another folder for several with --out")
    jobs = []
    for slide, folder in zip(slides, folders, strict=True):
        finished = not overwrite and _is_finished(slide, folder, trained, options)
        if not finished:
            require_free(folder, RECORD, overwrite)
        jobs.append(SlideJob(slide, folder, finished))
    return jobs


def predict_each(jobs: Sequence[SlideJob], predictor: Callable[[], Predictor], progress: Progress) -> Iterator[Outcome]:
    """Predict the slides of all unfinished jobs, one after another; a slide that fails does not stop the others.

    Args:
        jobs: from ``lay_out``.
        predictor: loads the network; called once, and only if a job is unfinished.
        progress: called with the current activity, which names the slide if there are several.

    Raises:
        TissueBenchError: the network cannot be loaded, or the only slide fails.
    """
    loaded: Predictor | None = None
    for number, job in enumerate(jobs, start=1):
        if job.is_finished:
            yield Outcome(job)
            continue
        loaded = loaded or predictor()
        where = f"slide {number}/{len(jobs)} {job.slide.name}: " if len(jobs) > 1 else ""
        started = time.monotonic()
        try:
            made = loaded.predict(job.slide, job.folder, _named(progress, where))
        except Exception as error:
            if len(jobs) == 1:
                raise
            told = (
                str(error) if isinstance(error, TissueBenchError) else f"{job.slide}: {type(error).__name__}: {error}"
            )
            yield Outcome(job, failure=" ".join(told.split()), seconds=time.monotonic() - started)
        else:
            yield Outcome(job, made, seconds=time.monotonic() - started)


def summarise(out: Path | None, jobs: Sequence[SlideJob], trained: Trained) -> Path:
    """Write predictions.csv over all predictions in ``out``, or, without it, over those of these jobs; return its path.

    Predictions of other commands whose record this release cannot read are left out.

    Raises:
        DataError: the file cannot be written.
    """
    if out is None:
        path = Path(f"predictions-{trained.key[:8]}.csv")
        folders = [job.folder for job in jobs if (job.folder / RECORD).is_file()]
    else:
        path = out / SUMMARY
        folders = sorted(record.parent for record in out.glob(f"*/{RECORD}") if not record.parent.name.startswith("."))
    records = []
    for folder in folders:
        with suppress(DataError):
            records.append(read_prediction(folder))
    try:
        write_summary(path, records)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _each_once(slides: Sequence[Path]) -> list[Path]:
    """Return the slides without those that were given before, by another path or by another of their files."""
    seen: set[Path] = set()
    kept = []
    for slide in slides:
        if slide.resolve() not in seen:
            kept.append(slide)
            seen |= {file.resolve() for file in (slide, *companions(slide))}
    return kept


def _named(progress: Progress, prefix: str) -> Progress:
    return lambda activity, done, total: progress(prefix + activity, done, total)


def _folder(slide: Path, trained: Trained, out: Path | None, alone: bool) -> Path:
    name = slide.stem.removesuffix(".ome")
    if out is None:
        return Path(f"{name}-{trained.key[:8]}")
    return out if alone else out / name


def _is_finished(slide: Path, folder: Path, trained: Trained, options: PredictionOptions) -> bool:
    """Return whether ``folder`` holds what would be written there.

    Raises:
        ConfigError: it holds another prediction.
        DataError: its record is damaged.
    """
    if not (folder / RECORD).is_file():
        return False
    record = read_prediction(folder)
    differing = {
        f"by trial {record['trial']['id']}": record["trial"]["id"] != trained.key,
        f"of another slide, {record['slide']['file']}": record["hashes"]["slide"] != fingerprint(slide),
        "with other options": record.get("options") != options.document(),
    }
    what = next((what for what, differs in differing.items() if differs), "")
    if what:
        raise ConfigError(
            f"{folder}: already exists, with a prediction {what}; use --overwrite to replace it, or choose another "
            "folder with --out"
        )
    return True
