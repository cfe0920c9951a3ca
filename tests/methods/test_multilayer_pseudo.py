"""The method on top of its pseudo-masks: which layers it learns from, how it gates, what it makes its stages of."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tissuebench.datasets.types import IGNORE_LABEL, Supervision, TileBatch
from tissuebench.errors import ConfigError
from tissuebench.methods.api.contract import CLASS_MAP, make_task
from tissuebench.methods.api.method import masked_cross_entropy
from tissuebench.methods.api.training_settings import TrainingSettings
from tissuebench.methods.losses.multi_target import MultiTarget, multi_target_cross_entropy
from tissuebench.methods.multilayer_pseudo import (
    CLASSIFY,
    FILL,
    PSEUDO,
    MultilayerPseudo,
    PublishedMultilayerPseudo,
    Source,
    TagFill,
)
from tissuebench.methods.networks.paper_deeplab import PaperSegmenter
from tissuebench.methods.networks.settings import Architecture, EncoderMode
from tissuebench.methods.networks.weights_file import without_files
from tissuebench.methods.pseudo_labels.tag_classifier import LAYERS, MapSource
from tissuebench.methods.pseudo_labels.tag_stages import ClassifierSettings, Fill, TagClassification, build_classifier

K, PX = len(CLASS_MAP), 16
FAMILY = (MultilayerPseudo, PublishedMultilayerPseudo, TagFill)
THREE = {"source": "maps", "layers": LAYERS, "weights": (0.2, 0.3, 0.5), "agree": False, "loss": "valid"}


def made(kind=MultilayerPseudo, mode=EncoderMode.FINETUNE, **config):
    torch.manual_seed(0)
    return kind(make_task(mode), kind.Config(**config))


class Fixed(nn.Module):
    """A network that says the same whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs):
        return self.logits


def steps_of(targets, seed=0, **config):
    """Loss and gradient of fixed logits, and the logits."""
    method = made(**config)
    generator = torch.Generator().manual_seed(seed)
    method.network = Fixed(torch.randn(len(targets), K, PX, PX, generator=generator))
    tiles = TileBatch(step=0, images=torch.zeros(len(targets), 3, PX, PX), pseudo_masks=targets)
    loss = method.training_step({PSEUDO: tiles}, 0)
    torch.autograd.backward(loss)
    return loss.detach(), method.network.logits.grad, method.network.logits.detach()


def random_targets(layers=3, ignored=0.2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, K, (2, layers, PX, PX), generator=generator)
    return targets.masked_fill(torch.rand(targets.shape, generator=generator) < ignored, IGNORE_LABEL)


# Which layers are learnt from.


@pytest.mark.parametrize("layers", [("shallow",), ("middle",), ("deep",), ("shallow", "deep"), LAYERS], ids="+".join)
@pytest.mark.parametrize("form", list(MultiTarget))
def test_layers_and_weights_are_those_that_are_named(layers, form):
    targets = random_targets()
    weights = {1: (1.0,), 2: (0.3, 0.7), 3: (0.2, 0.3, 0.5)}[len(layers)]
    config = {"layers": layers, "weights": weights, "agree": False, "loss": form, "source": "maps"}
    loss, _, logits = steps_of(targets, **config)
    named = torch.stack([targets[:, {"shallow": 0, "middle": 1, "deep": 2}[layer]] for layer in layers], dim=1)
    assert torch.equal(loss, multi_target_cross_entropy(logits, named, weights, form))
    other = targets.clone()
    for number, layer in enumerate(LAYERS):
        if layer not in layers:
            other[:, number] = torch.randint(0, K, (2, PX, PX))
    assert torch.equal(loss, steps_of(other, **config)[0])


@pytest.mark.parametrize("agree", [True, False])
@pytest.mark.parametrize("kind", FAMILY)
def test_identical_masks_are_one_plain_cross_entropy(kind, agree):
    one = random_targets(1)
    config = {**THREE, "agree": agree} if kind is not TagFill else {}
    targets = one if kind is TagFill else one.expand(-1, 3, -1, -1)
    loss, _, logits = steps_of(targets, kind=kind, **{"loss": "valid", **config})
    torch.testing.assert_close(loss, masked_cross_entropy(logits, one[:, 0]))


def test_only_where_layers_agree():
    targets = random_targets(ignored=0.1)
    targets[:, 1, : PX // 2], targets[:, 2, : PX // 2] = targets[:, 0, : PX // 2], targets[:, 0, : PX // 2]
    loss, gradient, logits = steps_of(targets, **{**THREE, "agree": True})
    shallow, middle, deep = targets.unbind(1)
    agreed = shallow.masked_fill((shallow != middle) | (middle != deep), IGNORE_LABEL)
    assert 0.4 < (agreed != IGNORE_LABEL).float().mean() < 0.6
    torch.testing.assert_close(loss, masked_cross_entropy(logits, agreed))
    assert torch.equal((gradient != 0).any(dim=1), agreed != IGNORE_LABEL)
    ignoring = {**THREE, "agree": True, "weights": (1.0, 0.0, 0.0)}
    assert torch.equal(loss, steps_of(targets, **ignoring)[0])  # weights do nothing
    two = {**THREE, "layers": ("shallow", "deep"), "weights": (0.5, 0.5), "agree": True}
    of_two = masked_cross_entropy(logits, shallow.masked_fill(shallow != deep, IGNORE_LABEL))
    torch.testing.assert_close(steps_of(targets, **two)[0], of_two)


@pytest.mark.parametrize("agree", [True, False])
def test_ignored_pixels_have_exactly_no_gradient(agree):
    targets = random_targets(ignored=0.6)
    loss, gradient, _ = steps_of(targets, **{**THREE, "agree": agree})
    nowhere = (targets == IGNORE_LABEL).all(dim=1)
    assert nowhere.any() and not nowhere.all()
    assert (gradient[nowhere[:, None].expand_as(gradient)] == 0).all()
    assert torch.isfinite(loss)
    loss, gradient, _ = steps_of(torch.full_like(targets, IGNORE_LABEL), **{**THREE, "agree": agree})
    assert loss == 0
    assert (gradient == 0).all()


# Settings.


@pytest.mark.parametrize(
    ("layers", "weights", "says"),
    [
        (("deep",), (0.5, 0.5), "2 weights for the layers deep"),
        (LAYERS, (1.0,), "1 weights for the layers shallow, middle, deep"),
        (("deep", "deep"), (0.5, 0.5), "2 weights for the layers deep, deep"),
        (("shallow", "deep"), (0.5, 0.6), "weights 0.5, 0.6: .*sum to 1"),
        (("shallow", "deep"), (1.5, -0.5), "weights 1.5, -0.5: they must be non-negative"),
        ((), (), "at least 1"),
        (("first",), (1.0,), "'shallow', 'middle' or 'deep'"),
    ],
)
def test_layers_and_weights_that_do_not_fit(layers, weights, says):
    with pytest.raises(ValidationError, match=says):
        MultilayerPseudo.Config(layers=layers, weights=weights)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_minutes_are_shared_between_masks_and_tags(share):
    spent = MultilayerPseudo.spending(MultilayerPseudo.Config(mask_share=share))
    everything = {Supervision.MASKS: share, Supervision.TAGS: 1 - share}
    assert dict(spent) == {kind: value for kind, value in everything.items() if value > 0}


def test_the_stage_has_the_classifiers_settings_and_steps_and_no_others():
    training = TrainingSettings(steps=77, batch_size=3, learning_rate=0.5, weight_decay=0.25)
    settings = {"maps": "grad_cam", "hidden": 5, "top_share": 0.125, "attention": "official"}
    own = {"classifier_training": {"steps": 11, "batch_size": 13, "learning_rate": 0.01}}
    config = MultilayerPseudo.Config(**settings, **own, gate=0.3, mask_share=0.5)
    (stage,) = MultilayerPseudo.stages(config, training)
    assert (stage.name, stage.module, stage.annotates) == (CLASSIFY, TagClassification, TagClassification.stream)
    assert type(stage.config) is ClassifierSettings
    assert stage.config.model_dump() == {name: getattr(config, name) for name in ClassifierSettings.model_fields}
    assert (stage.config.maps, stage.config.hidden, stage.config.top_share) == (MapSource.GRAD_CAM, 5, 0.125)
    expected = {"steps": 11, "batch_size": 13, "learning_rate": 0.01}
    assert stage.training == training.model_copy(update=expected)
    assert stage.consumes <= MultilayerPseudo.consumes
    # Settings of the segmenter leave the stage as it is, so that arms share it.
    arms = [
        {"layers": ("middle",), "weights": (1.0,)},
        {"agree": False, "gate": None, "loss": "official", "layers": LAYERS, "weights": (0.2, 0.2, 0.6)},
    ]
    for arm in arms:
        assert MultilayerPseudo.stages(MultilayerPseudo.Config(**settings, **own, **arm), training) == (stage,)


@pytest.mark.parametrize("kind", [MultilayerPseudo, TagFill])
def test_filling_is_one_step_and_has_no_settings(kind):
    (stage,) = kind.stages(kind.Config(source="fill", hidden=9), TrainingSettings(steps=77))
    assert (stage.name, stage.module, stage.training.steps) == (FILL, Fill, 1)
    assert stage.config == Fill.Config()
    method = made(kind, source="fill", gate=0.5)
    assert method.streams()[PSEUDO].pseudo == FILL
    assert method.classifier is None


def test_the_control_is_the_method_without_its_idea():
    assert TagFill.Config().source is Source.FILL
    assert "tag_fill" in MultilayerPseudo.controls
    assert "tag_fill" in PublishedMultilayerPseudo.controls
    assert "tag_fill" not in TagFill.controls


# The gate.


def gated(logits_of_heads, threshold, seen=(True,) * K):
    """A method whose classifier gives these logits, (B, H, K), and what it predicts with and without its gate."""
    method = made(gate=threshold, source="maps").eval()
    method.seen.copy_(torch.tensor(seen))
    images = torch.randint(0, 256, (len(logits_of_heads), 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        method.classifier.forward = lambda inputs: logits_of_heads
        found = method.predict(images)
        classifier, method.classifier = method.classifier, None
        plain = method.predict(images)
        method.classifier = classifier
    return found, plain


def head(*probabilities):
    """Logits of three heads of which only the last, the deepest, counts."""
    last = torch.tensor([probabilities]).logit()
    return torch.stack([-last, torch.zeros_like(last), last], dim=1)


def test_a_gate_that_all_classes_pass_is_the_identity():
    found, plain = gated(head(1.0, 1.0, 0.9, 0.5), 0.4)
    assert torch.equal(found, plain)


def test_a_class_that_is_not_seen_in_the_tile_is_never_predicted():
    found, plain = gated(head(0.3, 0.9, 0.2, 0.31), 0.3)
    assert (found[:, [0, 2]] == 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 64, 64))
    torch.testing.assert_close(found[:, 1] / found[:, 3], plain[:, 1] / plain[:, 3])
    nothing, plain = gated(head(0.1, 0.1, 0.1, 0.1), 0.3)
    assert torch.equal(nothing, plain)


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_a_class_that_no_tile_had_is_closed_whatever_its_head_says(threshold):
    found, _ = gated(head(0.5, 0.999, 0.5, 0.5), threshold, seen=(True, False, True, True))
    assert (found[:, 1] == 0).all()
    assert (found[:, [0, 2, 3]] > 0).any()


def test_the_gate_is_the_classifier_of_the_stage_and_learns_no_more():
    method = made(gate=0.2, source="maps", maps="heads")
    stage = TagClassification(method.task, MultilayerPseudo.stages(method.config, method.task.training)[0].config)
    stage.survey({stage.stream: torch.tensor([[True, False, True, True]])})
    for number, parameter in enumerate(stage.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number), std=0.05)
    method.inherit({CLASSIFY: stage.state_dict()})
    assert method.seen.tolist() == [True, False, True, True]
    kept = dict(method.classifier.state_dict())
    for name, value in stage.classifier.state_dict().items():
        assert torch.equal(kept.pop(name), value), name
    assert not kept
    assert not any(parameter.requires_grad for parameter in method.classifier.parameters())
    assert not any(module.training for module in method.train().classifier.modules())
    assert method.network.training
    optimizer = method.configure_optimizers()["optimizer"]
    learning = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert learning == {id(parameter) for parameter in method.network.parameters()}
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(method.classifier(images), stage.eval().classifier(images))


def test_without_a_gate_there_is_no_classifier_to_carry():
    method = made(gate=None)
    assert method.classifier is None
    method.inherit({CLASSIFY: {}})
    assert not any(name.startswith("classifier") for name in method.state_dict())


# The networks of the paper.


@pytest.mark.parametrize("kind", [MultilayerPseudo, PublishedMultilayerPseudo])
def test_the_papers_networks_read_images_and_are_trained_where_the_shared_encoder_is_frozen(kind):
    task = make_task(EncoderMode.FROZEN)
    config = kind.Config(backbone="paper", classifier_width=8)
    (stage,) = kind.stages(config, task.training)
    assert kind.wants_images(config) and stage.module.wants_images(stage.config)
    assert not kind.can_predict_features(config)
    method, classifier = kind(task, config), stage.module(task, stage.config)
    assert all(parameter.requires_grad for parameter in method.network.parameters())
    assert all(parameter.requires_grad for parameter in classifier.classifier.encoder.parameters())
    assert classifier.classifier.encoder.conv1a.out_channels == 8
    assert [note.partition(":")[0] for note in (*method.notes, *classifier.notes)] == [
        "DeepLabV3+ starts from random weights", "ResNet-38 starts from random weights",
    ]  # fmt: skip


@pytest.mark.parametrize(("gate_on", "closed_wins"), [("probabilities", False), ("logits", True)])
def test_the_gate_of_the_code_lets_a_closed_class_win_where_all_open_ones_are_negative(gate_on, closed_wins):
    method = made(MultilayerPseudo, gate=0.1, gate_on=gate_on).eval()
    logits = torch.full((1, K, 2, 2), -3.0)
    logits[:, 0] = -1.0
    method.network.forward = lambda images: logits
    method.classifier.forward = lambda images: torch.tensor([[[5.0] + [-5.0] * (K - 1)]])  # the first class is open
    method.seen.fill_(True)
    with torch.inference_mode():
        found = method.predict(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 2, 2))
    assert bool((found.max(dim=1).indices != 0).all()) == closed_wins


def test_the_papers_networks_take_the_place_of_both():
    method = made(PublishedMultilayerPseudo, backbone="paper", gate=None)
    assert isinstance(method.network, PaperSegmenter)
    with torch.inference_mode():
        found = method.eval().predict(torch.randint(0, 256, (1, 3, 40, 33), dtype=torch.uint8))
    assert found.shape == (1, K, 40, 33)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 40, 33))
    classifier = build_classifier(method.task, method.config)
    assert sum(parameter.numel() for parameter in classifier.encoder.parameters()) == 105_070_912
    assert method.config.backbone is Architecture.PAPER


def test_each_file_of_weights_goes_to_its_network(tmp_path):
    """The stage loads the classifier's; the method loads the segmenter's, and inherits the classifier for its gate."""
    absent = {
        key: {"path": str(tmp_path / key), "sha256": "0" * 64} for key in ("classifier_weights", "segmenter_weights")
    }
    task = make_task()
    config = PublishedMultilayerPseudo.Config(backbone="paper", **absent)
    assert config.gate is not None
    with pytest.raises(ConfigError, match="segmenter_weights: cannot be read"):
        PublishedMultilayerPseudo(task, config)
    (stage,) = PublishedMultilayerPseudo.stages(config, task.training)
    assert stage.config.classifier_weights == config.classifier_weights
    with pytest.raises(ConfigError, match="classifier_weights: cannot be read"):
        stage.module(task, stage.config)
    method = PublishedMultilayerPseudo(task, without_files(config))  # as for prediction
    assert method.classifier is not None and isinstance(method.network, PaperSegmenter)
    inherited = PublishedMultilayerPseudo(task, config.model_copy(update={"segmenter_weights": None}))
    assert inherited.classifier is not None
