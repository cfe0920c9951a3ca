"""Threads beside the one that predicts: reading ahead, and counting what needs the labels of a whole slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, Self, TypeVar

ItemT = TypeVar("ItemT")
ReadT = TypeVar("ReadT")
ResultT = TypeVar("ResultT")


def read_ahead(items: Iterable[ItemT], read: Callable[[ItemT], ReadT]) -> Iterator[tuple[ItemT, ReadT]]:
    """Yield each item with what ``read`` returns for it; a thread reads the next one meanwhile.

    An error of ``read`` is raised when its item is due.

    Args:
        items: the items; each is requested when the one before it is yielded.
        read: reads an item, in a thread that no other read runs in at the same time.

    Examples:
        >>> list(read_ahead([1, 2, 3], lambda item: item**2))
        [(1, 1), (2, 4), (3, 9)]
    """
    with ThreadPoolExecutor(1, "reading-ahead") as thread:
        due: tuple[ItemT, Future[ReadT]] | None = None
        for item in items:
            started = (item, thread.submit(read, item))
            if due is not None:
                yield due[0], due[1].result()
            due = started
        if due is not None:
            yield due[0], due[1].result()


class Background(AbstractContextManager["Background[ResultT]"], Generic[ResultT]):
    """A thread that does one job at a time; nothing ever waits in a queue.

    numpy releases the interpreter's lock in the loops of such jobs, so a process of its own would only add copies. The
    thread starts with the first job and ends with the block.

    Examples:
        >>> with Background[int]() as background:
        ...     background.start(lambda: 6 * 7)
        ...     background.wait()
        42
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "background")
        self._running: Future[ResultT] | None = None

    def start(self, job: Callable[[], ResultT]) -> None:
        """Start a job; the one before it must have been waited for."""
        if self._running is not None:
            raise RuntimeError("a job is running: wait for it first")
        self._running = self._thread.submit(job)

    def wait(self) -> ResultT | None:
        """Return the result of the job that runs, or raise its error; None if there is none."""
        running, self._running = self._running, None
        return None if running is None else running.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self
