"""What of a method's settings is in an identity: files of weights by content, and those that are not given not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
import torch

from tests.methods.networks.mxnet_writer import mxnet_name, write_params
from tissuebench.common.settings import Later, Settings
from tissuebench.methods.multilayer_pseudo import MultilayerPseudo, PublishedMaps, PublishedMultilayerPseudo
from tissuebench.methods.networks.paper_deeplab import DeepLabWeights
from tissuebench.methods.networks.paper_resnet38 import ResNet38
from tissuebench.methods.networks.resnet38_weights import ResNet38Weights, read_resnet38
from tissuebench.methods.networks.weights_file import WeightsFile
from tissuebench.plans.trial import Trial, identity_of_settings, variant_name
from tissuebench.sweep.graph import build_graph
from tissuebench.sweep.jobs import TaskKind

ONE, OTHER = "1" * 64, "2" * 64


class SmallWeights(WeightsFile):
    """Weights of a ResNet-38 of width 4."""

    @classmethod
    def read(cls, path: Path) -> dict[str, torch.Tensor]:
        return read_resnet38(path, ResNet38(4))


class Inner(Settings):
    weights: Annotated[SmallWeights | None, Later(None)] = None
    rate: float | None = None


class Outer(Settings):
    own: Annotated[SmallWeights | None, Later(None)] = None
    inner: Inner = Inner()
    by_name: Mapping[str, SmallWeights] = {}
    listed: tuple[Inner, ...] = ()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same tensors in two folders and formats, and with one value changed."""
    torch.manual_seed(0)
    state = {name: one for name, one in ResNet38(4).state_dict().items() if "num_batches" not in name}
    here, elsewhere, changed = (tmp_path_factory.mktemp(name) / "net" for name in ("here", "elsewhere", "changed"))
    torch.save(state, here.with_suffix(".pth"))
    write_params(elsewhere.with_suffix(".params"), {mxnet_name(name): one for name, one in state.items()}, 1)
    torch.save(state | {"bn7.bias": state["bn7.bias"] + 1e-6}, changed.with_suffix(".pth"))
    return here.with_suffix(".pth"), elsewhere.with_suffix(".params"), changed.with_suffix(".pth")


def filled(path):
    at = str(path)
    return Outer.model_validate(
        {"own": at, "inner": {"weights": at}, "by_name": {"a": at}, "listed": [{"weights": at, "rate": 2}]}
    )


def test_at_any_depth_the_hash_stands_for_the_file(files):
    here, elsewhere, changed = (identity_of_settings(filled(path)) for path in files)
    assert here == elsewhere
    sha256 = here["own"]
    assert here == {
        "own": sha256,
        "inner": {"weights": sha256, "rate": None},
        "by_name": {"a": sha256},
        "listed": [{"weights": sha256, "rate": 2.0}],
    }
    assert changed["own"] != sha256


def test_a_file_that_is_not_given_is_left_out_and_other_settings_are_not():
    assert identity_of_settings(Outer()) == {"inner": {"rate": None}, "by_name": {}, "listed": []}


@pytest.mark.parametrize("kind", [MultilayerPseudo, PublishedMaps])
def test_the_identity_without_files_is_what_it_was(kind):
    """The settings that existed before those of files, and nothing more: ids do not change."""
    identity = identity_of_settings(kind.Config())
    assert not {"classifier_weights", "segmenter_weights", "classifier_width", "classifier_training"} & identity.keys()
    assert {"classifier_steps", "classifier_batch", "classifier_rate"} <= identity.keys()
    assert "gate_on" not in identity and "training" not in identity


def with_weights(folder: str, classifier: str, segmenter: str) -> PublishedMultilayerPseudo.Config:
    return PublishedMultilayerPseudo.Config(
        backbone="paper",
        classifier_weights=ResNet38Weights(path=f"{folder}/a1.params", sha256=classifier),
        segmenter_weights=DeepLabWeights(path=f"{folder}/deeplab.tar", sha256=segmenter),
    )


def test_trials_and_stages_depend_on_what_is_in_the_files_and_not_on_their_place(bench):
    plan = bench.plan("network.encoder_mode=finetune")
    trial = bench.trials(plan, "supervised")[0]

    def laid_out(config):
        made = Trial.of_plan(
            plan, trial.dataset, trial.store_sha256, trial.split_sha256, trial.budget, "multilayer_pseudo_published",
            config, 0, 0.0,
        )  # fmt: skip
        assert "/here" not in json.dumps(made.identity())
        assert Trial.of_document(json.loads(json.dumps(made.document()))) == made  # the worker gets the path
        (stage,) = build_graph([made], bench.data, bench.home).of_kind(TaskKind.STAGE)
        return made.id, stage.key

    here, elsewhere = (laid_out(with_weights(folder, ONE, ONE)) for folder in ("/here", "/elsewhere"))
    assert here == elsewhere
    other_segmenter, other_classifier = (
        laid_out(with_weights("/here", *pair)) for pair in ((ONE, OTHER), (OTHER, ONE))
    )
    assert len({here[0], other_segmenter[0], other_classifier[0]}) == 3
    assert here[1] == other_segmenter[1] != other_classifier[1]  # the classifier's stage does not see the segmenter


def test_names_in_tables_show_the_first_digits():
    name = variant_name("multilayer_pseudo_published", with_weights("/here", ONE, OTHER))
    assert name == ("multilayer_pseudo_published[classifier_weights=11111111,segmenter_weights=22222222]")


@pytest.mark.parametrize("key", ["classifier_weights", "segmenter_weights"])
def test_files_belong_to_the_networks_of_the_paper(key):
    given = {key: {"path": "/net.params", "sha256": ONE}}
    with pytest.raises(ValueError, match=rf"{key} are those of .* and need backbone: paper"):
        MultilayerPseudo.Config(**given)


def test_names_in_tables_leave_out_what_another_setting_displaced():
    shorter = PublishedMultilayerPseudo.Config.model_validate({"training": {"steps": 300}})
    assert variant_name("multilayer_pseudo_published", shorter) == "multilayer_pseudo_published[training.steps=300]"
