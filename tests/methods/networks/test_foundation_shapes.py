"""Encoders of more than 300 million parameters, with random weights in their published shapes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tissuebench.methods.networks.encoder_catalogue import CATALOGUE

_SCRIPT = """
import json, resource, sys
import torch
from tissuebench.methods.networks import build_segmenter
from tissuebench.methods.networks.settings import EncoderMode, NetworkSettings, Weights

settings = NetworkSettings(encoder=sys.argv[1], encoder_mode=sys.argv[2], decoder="fpn", decoder_channels=32, lora_rank=4)
torch.manual_seed(0)
network = build_segmenter(settings.model_copy(update={"weights": Weights.NONE}), 4).train()
images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], lr=1e-3)
before = [each.detach().clone() for each in network.neck.parameters()]
loss = network(images).square().mean()
loss.backward()
optimizer.step()
with torch.inference_mode():
    probabilities = network.eval()(images).softmax(dim=1)
print(json.dumps({
    "loss": float(loss),
    "moved": all(not torch.equal(a, b) for a, b in zip(before, network.neck.parameters())),
    "shape": list(probabilities.shape),
    "finite": bool(probabilities.isfinite().all()),
    "channels": list(network.channels),
    "strides": list(network.strides),
    "prefix": network.encoder.model.num_prefix_tokens,
    "parameters": sum(each.numel() for each in network.encoder.parameters()),
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "lora"])
@pytest.mark.parametrize(("name", "prefix"), [("uni", 1), ("virchow2", 5), ("h-optimus-0", 5)])
def test_it_is_built_trained_for_a_step_and_predicts(name, prefix, mode):
    """A process of its own gives its memory back; the peak is printed: run with ``-s`` to see it."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SCRIPT, name, mode], capture_output=True, text=True, check=True, timeout=900
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    entry = CATALOGUE[name]
    print(f"{name}, {mode}: peak of {seen['peak_gb']:.1f} GB for {seen['parameters'] / 1e6:.0f} M parameters")
    assert seen["shape"] == [1, 4, 224, 224]
    assert seen["finite"] and seen["moved"]
    assert seen["channels"] == [entry.dim] * 4
    assert seen["strides"] == [entry.patch] * 4
    assert seen["prefix"] == prefix
    assert seen["parameters"] / 1e6 == pytest.approx(entry.parameters, rel=0.02)
    weights_gb = 4 * seen["parameters"] / 1e9
    assert seen["peak_gb"] < 2.5 * weights_gb + 2
