"""Collections of a warm process do not look at what it imported."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from tissuebench.runtime.memory import exempt_imports
import torch
n_alive = len(gc.get_objects())
exempt_imports()
assert gc.get_freeze_count() > 0.9 * n_alive, (gc.get_freeze_count(), n_alive)
class Node: pass
def cycle():
    one = Node()
    one.me = one
for _ in range(100):
    cycle()
assert gc.collect() >= 100  # what comes later is collected as ever
"""


def test_imports_are_exempt_and_later_garbage_is_not():
    subprocess.run([sys.executable, "-P", "-c", PROGRAM], check=True)
