"""Benchmark of the complementary losses against the same formulas in plain PyTorch, forward and backward.

*Plain*: ``-(1 - q)^gamma log q`` from a softmax, as one would write it down; it is neither finite nor exact for distant
logits. Six classes, of which a diagnosis can exclude two or four, and 8 tiles of 256 px.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from tissuebench.common.progress import ProgressDisplay
from tissuebench.methods.losses.complementary import conditional_set_wise, forward_corrected, set_wise
from tissuebench.perf.ratios import Rates, Ratio, ratio, show

GOAL = 0.7
_SEED, _N_CLASSES, _N_TILES, _GAMMA = 0, 6, 8, 2.0

Loss = Callable[[Tensor], Tensor]


def run(console: Console, as_json: bool, rounds: int = 10, tile_px: int = 256) -> list[Ratio]:
    """Measure, and print one table.

    Args:
        console: console for the table; progress goes to standard error.
        as_json: print JSON and nothing else.
        rounds: rounds in which each loss has its turn; one more before them is not timed.
        tile_px: edge of a tile.
    """
    lines = []
    generator = torch.Generator().manual_seed(_SEED)
    logits = 3 * torch.randn(_N_TILES, _N_CLASSES, tile_px, tile_px, generator=generator)
    with ProgressDisplay(Console(stderr=True, highlight=False)) as display:
        for n_dependent in (2, 4):
            pairs = losses(n_dependent)
            rates = measure(pairs, logits, rounds, display)
            for name in pairs:
                title = f"{name}, {n_dependent} dependent classes: losses/s to plain PyTorch"
                lines.append(ratio(title, *rates[name], GOAL))
    show(f"Complementary losses, relative ({_N_TILES} tiles of {tile_px} px)", lines, console, as_json)
    return lines


def losses(n_dependent: int) -> dict[str, tuple[Loss, Loss]]:
    """Return each form of the loss, ours and plain, by name, when a diagnosis can exclude ``n_dependent`` classes."""
    dependent = torch.arange(_N_CLASSES) >= _N_CLASSES - n_dependent
    excluded = dependent.repeat(_N_TILES, 1)
    for number, of_tile in enumerate(excluded):  # the diagnosis of each tile allows one of them
        of_tile[_N_CLASSES - n_dependent + number % n_dependent] = False
    observation = (~excluded).float() / (_N_CLASSES - excluded.sum(dim=1, keepdim=True))

    def among(p: Tensor, classes: Tensor) -> Tensor:
        return (p * classes[..., None, None]).sum(dim=1)

    def focal(q: Tensor) -> Tensor:
        return -((1 - q) ** _GAMMA) * q.log()

    def plain_conditional(logits: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        mass = among(p, dependent)
        return mass.detach() * focal(among(p, dependent & ~excluded) / mass)

    return {
        "conditional": (lambda z: conditional_set_wise(z, excluded, dependent, _GAMMA), plain_conditional),
        "set_wise": (lambda z: set_wise(z, excluded, _GAMMA), lambda z: focal(among(z.softmax(dim=1), ~excluded))),
        "forward_corrected": (
            lambda z: forward_corrected(z, observation, _GAMMA),
            lambda z: focal(among(z.softmax(dim=1), observation)),
        ),
    }


def measure(
    pairs: Mapping[str, tuple[Loss, Loss]], logits: Tensor, rounds: int, display: ProgressDisplay | None = None
) -> dict[str, tuple[Rates, Rates]]:
    """Return forward and backward passes per second of ours and the plain loss, (R,) each, by name."""
    ways = [(name, place, loss) for name, both in pairs.items() for place, loss in enumerate(both)]
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for turn in range(rounds + 1):
        for name, place, loss in ways:
            own = logits.clone().requires_grad_()
            began = time.perf_counter()
            torch.autograd.backward(loss(own).mean())
            seconds[name][place].append(time.perf_counter() - began)
        if display is not None:
            display.phase("rounds", turn, rounds)
    return {name: (1 / np.array(ours[1:]), 1 / np.array(plain[1:])) for name, (ours, plain) in seconds.items()}
