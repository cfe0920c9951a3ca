"""Connection of a child process to the process that started it: messages in, answers out, and the end of both."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from contextlib import suppress
from typing import Any, TextIO

Message = dict[str, Any]


def connect_to_parent() -> tuple[queue.SimpleQueue[Message], TextIO]:
    """Return the queue of the parent's messages, one JSON object per line, and the stream for answers.

    The standard streams become null: the service of wandb would inherit and hold them. If the parent is gone without
    having sent ``close``, this process and its group end, whatever they are doing. Ctrl-C is for the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe, answer = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with open(os.devnull, "r+") as nothing:  # noqa: PTH123 - a descriptor is needed
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    return inbox, answer


def _listen(pipe: TextIO, inbox: queue.SimpleQueue[Message]) -> None:
    with suppress(ValueError):  # incomplete line
        for line in pipe:
            message = json.loads(line)
            inbox.put(message)
            if message["do"] == "close":
                return
    os.killpg(0, signal.SIGKILL)
