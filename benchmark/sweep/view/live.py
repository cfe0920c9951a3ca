"""Live display of a running sweep on standard error: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tissuebench.results.records.curves import read_last_loss
from tissuebench.sweep.graph import Graph, SweepTask
from tissuebench.sweep.jobs import State, TaskKind
from tissuebench.sweep.state.folders import task_folder
from tissuebench.sweep.state.heartbeat import Progress, read_progress
from tissuebench.sweep.state.journal import seconds_spent
from tissuebench.sweep.view.pace import MAIN_PHASES, TRAINING, Pace, Work, clock

_DRAW_SECONDS, _READ_SECONDS, _PLAIN_SECONDS = 0.25, 1.0, 15.0
_READS_A_SECOND = 100
_LINES_KEPT, _PLAIN_NAMES, _LEAST_ROWS = 5, 4, 4
_OVER = (State.DONE, State.FAILED, State.SKIPPED)


@dataclass(slots=True)
class _Running:
    task: SweepTask
    folder: Path
    state: State
    since: float
    progress: Progress | None = None
    first: int = 0
    loss: float | None = None


class SweepDisplay:
    """An ``Observer`` of the runner; a context manager.

    Args:
        console: the output console; standard error on the command line.
        graph: the graph that is run.
    """

    def __init__(self, console: Console, graph: Graph) -> None:
        self._console = console
        self._states = dict.fromkeys(graph, State.WAITING)
        self._counts = Counter(self._states.values())
        self._totals = Counter(task.job.kind for task in graph.values())
        self._ended: Counter[TaskKind] = Counter()
        self._waiting = Counter(_work(task) for task in graph.values())
        self._steps, self._steps_total = 0, graph.steps
        self._running: dict[str, _Running] = {}
        self._pace, self._slots = Pace(), 1
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._begun = False  # before that, the runner takes stock of earlier runs
        self._started = self._said = time.monotonic()
        self._drawn = self._read = 0.0
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False) if console.is_terminal else None

    def __enter__(self) -> SweepDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line that stays on the screen."""
        self._said = time.monotonic()
        self._console.print(Text(text), soft_wrap=True)

    def changed(self, task: SweepTask, state: State, detail: str, seconds: float) -> None:
        """Show a task's change of state."""
        before = self._states[task.key]
        self._states[task.key] = state
        self._counts[before] -= 1
        self._counts[state] += 1
        self._waiting[_work(task)] += (state is State.WAITING) - (before is State.WAITING)
        was = self._running.pop(task.key, None)
        folder = task_folder(task.job.home, task.job.kind, task.key)
        if state in (State.RUNNING, State.ELSEWHERE):
            self._begun = True
            self._running[task.key] = _Running(task, folder, state, time.monotonic())
        if state is State.DONE:
            self._steps += task.steps
            taken = seconds if self._begun else seconds_spent(folder)
            if taken:
                self._pace.over(_work(task), taken, was.first if was else 0)
        if state in _OVER:
            self._ended[task.job.kind] += 1
        if line := self._line(task, state, detail, seconds):
            self._lines.append(line)
            if self._live is None:
                self.note(line)

    def tick(self) -> None:
        """Update the display if due."""
        self._begun = True
        now = time.monotonic()
        if now - self._read >= max(_READ_SECONDS, len(self._running) / _READS_A_SECOND):
            self._read = now
            for each in self._running.values():
                self._look_at(each)
        if self._live is not None and now - self._drawn >= _DRAW_SECONDS:
            self._drawn = now
            self._live.update(self._table(), refresh=True)
        elif self._live is None and self._running and now - self._said >= _PLAIN_SECONDS:
            self.note(f"running: {self._who()}{self._eta()}")

    def _look_at(self, each: _Running) -> None:
        with suppress(OSError):  # a shared folder that does not respond now
            each.progress = read_progress(each.folder) or each.progress
        if (last := read_last_loss(each.folder)) is not None:
            each.loss = last[1]
        progress = each.progress
        if progress is not None and progress.phase == TRAINING and progress.first and not each.first:
            each.first = progress.first
            job = each.task.job
            line = f"{job.kind} {job.title}: resumes at {progress.first}/{progress.total}"
            self._lines.append(line)
            if self._live is None:
                self.note(line)

    def _line(self, task: SweepTask, state: State, detail: str, seconds: float) -> str:
        """Return the message for a change; empty if a task starts, or was finished by an earlier run."""
        kind, title = task.job.kind, task.job.title
        word = "shard" if kind is TaskKind.FEATURES else kind
        numbered = f"{word} {self._ended[kind]}/{self._totals[kind]} {title}"
        match state:
            case State.DONE if self._begun:
                return f"{numbered}: {f'done in {seconds:.0f} s' if seconds else detail}{self._eta()}"
            case State.FAILED if self._begun:
                return f"{numbered}: FAILED: {detail}{self._eta()}"
            case State.FAILED:
                return f"{numbered}: failed earlier: {detail}"
            case State.SKIPPED:
                return f"{numbered}: {detail}"
            case State.ELSEWHERE:
                return f"{kind} {title}: runs in another process ({detail})"
            case State.WAITING:
                return f"{kind} {title}: {detail}"
        return ""

    def _eta(self) -> str:
        left = self._left()
        return f" (ETA {clock(left)})" if left else ""

    def _left(self) -> float | None:
        moving = [(_work(each.task), each.progress) for each in self._running.values() if each.progress is not None]
        waiting = self._waiting + Counter(_work(each.task) for each in self._running.values() if each.progress is None)
        self._slots = max(self._slots, len(moving))  # a task that has just ended leaves its slot empty for a moment
        return self._pace.left(waiting, moving, self._slots)

    def _who(self) -> str:
        shown = list(self._running.values())[:_PLAIN_NAMES]
        more = f" and {len(self._running) - len(shown)} more" if len(self._running) > len(shown) else ""
        return ", ".join(f"{each.task.job.title} {_how_far(each)}".rstrip() for each in shown) + more

    def _table(self) -> Group:
        counts, left = self._counts, self._left()
        steps = self._steps + sum(
            each.progress.done
            for each in self._running.values()
            if each.progress is not None and each.task.steps and each.progress.phase in MAIN_PHASES
        )
        failed, skipped = counts[State.FAILED], counts[State.SKIPPED]
        head = (
            f"{counts[State.DONE]}/{len(self._states)} done, {len(self._running)} running"
            f", {counts[State.WAITING]} waiting"
            + (f", {failed} failed" if failed else "")
            + (f", {skipped} skipped" if skipped else "")
            + (f"; step {steps:,}/{self._steps_total:,}" if self._steps_total else "")
            + f"; {clock(time.monotonic() - self._started)} elapsed"
            + (f", ETA {clock(left)}" if left else "")
        )
        moving = sorted(self._running.values(), key=lambda each: each.progress is None)
        room = max(_LEAST_ROWS, self._console.height - _LINES_KEPT - 4)
        parts: list[Text | Table] = [Text(head, style="bold", overflow="ellipsis", no_wrap=True)]
        if moving:
            parts.append(_rows(moving[:room]))
        if len(moving) > room:
            parts.append(Text(f"  and {len(moving) - room} more"))
        parts += [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in self._lines]
        return Group(*parts)


def _rows(shown: list[_Running]) -> Table:
    has_gpu = any(each.progress is not None and each.progress.gpu_memory for each in shown)
    names = ["", "", "phase", "done", "rate", "loss", "memory", *(["GPU"] if has_gpu else []), "elapsed"]
    table = Table(*names, box=None, padding=(0, 1), header_style="dim")
    for column in table.columns:
        column.no_wrap = True
    table.columns[1].ratio = 1
    for each in shown:
        progress, job = each.progress, each.task.job
        title = Text(job.title + (" (elsewhere)" if each.state is State.ELSEWHERE else ""), overflow="ellipsis")
        cells = [Text(job.kind), title]
        if progress is None:
            cells += [Text("queued"), *[Text()] * (len(names) - 4)]
        else:
            done = f"{progress.done:,}/{progress.total:,}" if progress.total else ""
            rate = f"{progress.rate:.1f}/s" if progress.total else ""
            cells += [Text(progress.phase), Text(done), Text(rate), Text(_brief(each.loss))]
            cells += [Text(_gigabytes(progress.memory))]
            cells += [Text(_gigabytes(progress.gpu_memory))] if has_gpu else []
        table.add_row(*cells, Text(clock(time.monotonic() - each.since)))
    return table


def _work(task: SweepTask) -> Work:
    return Work(task.job.kind, task.tiles or task.steps)


def _how_far(each: _Running) -> str:
    progress = each.progress
    if progress is None or not progress.total:
        return ""
    loss = "" if each.loss is None else f", loss {_brief(each.loss)}"
    return f"{progress.phase} {progress.done}/{progress.total}{loss}"


def _brief(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.3g}"


def _gigabytes(memory: int) -> str:
    return f"{memory / 2**30:.1f} GB"
