"""Progress for people, on standard error: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_EVERY_SECONDS = 15.0


class ProgressDisplay:
    """One bar for the whole run and one for what is being done now.

    Args:
        console: where to; standard error in the command line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self._current = self._bars.add_task("", total=None, visible=False)
        self._whole = self._bars.add_task("whole run", total=None, visible=False)
        self._steps_total = self._steps_before = self._steps_done = 0
        self._started = self._plain_due = time.monotonic()
        self._last: tuple[str, bool] = ("", False)

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def phase(self, what: str, done: int, total: int) -> None:
        """Something countable that is not training: slides drawn, slides ingested, tiles encoded."""
        self._bars.update(self._current, description=escape(what), completed=done, total=total, visible=True)
        self._plain(what, done, total)

    def plan(self, steps: int) -> None:
        """The whole run takes so many steps."""
        self._steps_total = steps
        self._started = time.monotonic()
        self._bars.update(self._whole, total=steps, visible=True)

    def steps(self, trial: str, done: int, total: int) -> None:
        """Steps of the running trial."""
        self._steps_done = self._steps_before + done
        self._bars.update(self._current, description=escape(trial), completed=done, total=total, visible=True)
        self._bars.update(self._whole, completed=self._steps_done)
        self._plain(trial, done, total)

    def trial_over(self, steps: int, line: str) -> None:
        """A trial has ended, well or badly."""
        self._steps_before += steps
        self._steps_done = self._steps_before
        self._bars.update(self._whole, completed=self._steps_done)
        self.note(line if self._console.is_terminal else f"{line} {self.eta()}")

    def eta(self) -> str:
        """Time left at the pace so far, as text."""
        if not self._steps_done:
            return ""
        left = (time.monotonic() - self._started) / self._steps_done * (self._steps_total - self._steps_done)
        minutes, seconds = divmod(round(left), 60)
        return f"(ETA {minutes}:{seconds:02d})"

    def _plain(self, what: str, done: int, total: int) -> None:
        if self._console.is_terminal:
            return
        state = (what, done >= total)
        if self._last[0] == what and time.monotonic() < self._plain_due and (not state[1] or self._last == state):
            return
        self._last = state
        self._plain_due = time.monotonic() + _PLAIN_EVERY_SECONDS
        self.note(f"{what} {done}/{total} {self.eta() if self._steps_total else ''}".rstrip())
