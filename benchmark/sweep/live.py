"""A sweep as people see it while it runs: a table on a terminal, plain lines elsewhere. On standard error."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from tissuebench.sweep.graph import Graph, Node
from tissuebench.sweep.runner import State


class SweepDisplay:
    """An ``Observer`` of the runner.

    Args:
        console: where to; standard error in the command line.
        graph: what is run.
    """

    def __init__(self, console: Console, graph: Graph) -> None:
        self._console, self._graph = console, graph
        self._started = time.monotonic()

    def __enter__(self) -> SweepDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def changed(self, node: Node, state: State, detail: str, seconds: float) -> None:
        """A node is in another state."""
        self.note(f"{node.job.kind} {node.job.title}: {state} {detail} {seconds:.0f} s")

    def tick(self) -> None:
        """Time has passed."""

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)
