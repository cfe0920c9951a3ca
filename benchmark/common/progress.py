"""Progress display on standard error: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_EVERY_SECONDS = 15.0


def stderr_console() -> Console:
    """Return the console for progress and notes: standard error, plain lines in a notebook."""
    is_terminal = False if Console().is_jupyter else None  # its standard error says it is one, but has no cursor
    return Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=is_terminal)


class ProgressDisplay:
    """Progress bar for the current activity: slides drawn, slides ingested, steps of a measurement.

    Args:
        console: the output console; standard error on the command line.
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
        self._plain_due = time.monotonic()
        self._last: tuple[str, bool] = ("", False)

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line that stays on the screen."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def phase(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` units of ``what`` are complete."""
        if what != self._last[0]:
            self._bars.reset(self._current)
        self._bars.update(self._current, description=escape(what), completed=done, total=total, visible=True)
        self._plain(what, done, total)

    def _plain(self, what: str, done: int, total: int) -> None:
        state = (what, done >= total)
        quiet = self._last[0] == what and time.monotonic() < self._plain_due and (not state[1] or self._last == state)
        if not self._console.is_terminal and not quiet:
            self._plain_due = time.monotonic() + _PLAIN_EVERY_SECONDS
            self.note(f"{what} {done}/{total}")
        if self._console.is_terminal or not quiet:
            self._last = state
