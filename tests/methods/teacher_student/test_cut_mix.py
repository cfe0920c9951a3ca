"""Rectangles of half the image, and that everything follows the pixels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.methods.teacher_student.cut_mix import boxes_to_mask, cut_mixed, draw_boxes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@examples(200)
@given(
    st.integers(0, 2**31),
    st.integers(1, 70),
    st.integers(1, 70),
    st.floats(0.01, 0.99),
)
def test_boxes_lie_in_the_image_and_have_the_area(seed, height, width, area):
    boxes = draw_boxes(50, height, width, seeded(seed), area)
    assert boxes.shape == (50, 4) and boxes.dtype == torch.int64
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    assert ((x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)).all()
    pasted = boxes_to_mask(boxes, height, width)
    assert pasted.shape == (50, height, width) and pasted.dtype == torch.bool
    counts = pasted.sum(dim=(1, 2))
    assert torch.equal(counts, (x1 - x0) * (y1 - y0))
    wanted = area * height * width
    # Rounding the height to a pixel is all that changes the area, unless that makes it nothing.
    assert ((counts - wanted).abs() <= torch.maximum((x1 - x0) / 2, (x1 - x0) * (y1 - y0 == 1))).all()


def test_half_the_image_within_a_hundredth_at_256():
    shares = boxes_to_mask(draw_boxes(1000, 256, 256, seeded()), 256, 256).float().mean(dim=(1, 2))
    assert (shares - 0.5).abs().max() < 0.005 + 1e-6  # half of 256 / 2 * 256 pixels
    assert (shares - 0.5).abs().mean() < 0.002


def test_widths_and_positions_are_uniform():
    boxes = draw_boxes(60_000, 12, 16, seeded())
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    widths, counts = (x1 - x0).unique(return_counts=True)
    assert widths.tolist() == list(range(9, 16))
    assert (counts / len(boxes) - 1 / 7).abs().max() < 0.006
    for width in (9, 12):
        these = x1 - x0 == width
        height = round(96 / width)
        assert ((y1 - y0)[these] == height).all()
        for starts, free in ((x0[these], 16 - width + 1), (y0[these], 12 - height + 1)):
            shares = torch.bincount(starts, minlength=free) / len(starts)
            assert len(shares) == free
            assert (shares - 1 / free).abs().max() < 0.02
        # Each coordinate for itself: of 8000 boxes a correlation of .05 is over four deviations from none.
        assert torch.corrcoef(torch.stack([x0[these], y0[these]]).float())[0, 1].abs() < 0.05


def test_the_generator_decides():
    first = draw_boxes(8, 64, 64, seeded(3))
    assert torch.equal(first, draw_boxes(8, 64, 64, seeded(3)))
    assert not torch.equal(first, draw_boxes(8, 64, 64, seeded(4)))
    assert len(first.unique(dim=0)) == 8
    generator = seeded(3)
    torch.manual_seed(1)
    assert torch.equal(draw_boxes(8, 64, 64, generator), first)
    assert not torch.equal(draw_boxes(8, 64, 64, generator), first)


def test_mask_pixel_by_pixel():
    mask = boxes_to_mask(torch.tensor([[1, 0, 3, 2], [0, 2, 4, 3]]), 3, 4)
    assert mask.int().tolist() == [
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]],
    ]


@examples(30)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_everything_follows_the_pixels(seed, count):
    """Each pixel carries its own place; whatever is mixed must say the same place everywhere."""
    height, width = 12, 18
    mask = boxes_to_mask(draw_boxes(count, height, width, seeded(seed)), height, width)
    places = torch.arange(count * height * width).view(count, height, width)
    images = torch.stack([places.float(), -places.float(), places * 0.5], dim=1)
    labels, confidences = cut_mixed(places, mask), cut_mixed(places / places.numel(), mask)
    mixed = cut_mixed(images, mask)
    for i in range(count):
        expected = places[i].clone()
        expected[mask[i]] = places[(i + 1) % count][mask[i]]
        assert torch.equal(labels[i], expected)
    assert labels.dtype == torch.int64
    assert torch.equal(confidences, labels / places.numel())
    assert torch.equal(mixed, torch.stack([labels.float(), -labels.float(), labels * 0.5], dim=1))
    assert torch.equal(images[:, 0], places.float())  # untouched


def test_a_single_sample_pastes_itself():
    images = torch.rand(1, 3, 8, 8, generator=seeded())
    mask = boxes_to_mask(draw_boxes(1, 8, 8, seeded()), 8, 8)
    assert mask.any() and torch.equal(cut_mixed(images, mask), images)


def test_no_samples():
    assert draw_boxes(0, 8, 8, seeded()).shape == (0, 4)
    assert boxes_to_mask(draw_boxes(0, 8, 8, seeded()), 8, 8).shape == (0, 8, 8)


@pytest.mark.parametrize("stride", [1, 4, 32])
def test_maps_at_other_strides_are_mixed_at_the_same_places(stride):
    """Boxes that end on the grid: the mixed maps are the maps of the mixed images, exactly."""
    count, size = 3, 128
    boxes = torch.tensor([[0, 32, 64, 128], [32, 0, 128, 96], [64, 64, 96, 96]])
    mask = boxes_to_mask(boxes, size, size)
    images = torch.rand(count, 2, size, size, generator=seeded())

    def maps(of):
        return torch.nn.functional.avg_pool2d(of, stride)

    assert torch.equal(cut_mixed(maps(images), mask), maps(cut_mixed(images, mask)))


def test_maps_take_the_nearest_pixel_to_their_centres():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :, :6] = True  # x = 6 is the centre of the second 4 px column
    maps = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert cut_mixed(maps, mask)[0].tolist() == [[1, 0], [1, 0]]
    mask[0, :, 6] = True
    assert cut_mixed(maps, mask)[0].tolist() == [[1, 1], [1, 1]]


def test_several_at_once_keep_types_and_formats():
    mask = boxes_to_mask(draw_boxes(4, 16, 16, seeded()), 16, 16)
    maps = tuple(
        torch.rand(4, 5, size, size, generator=seeded(size)).to(dtype).contiguous(memory_format=torch.channels_last)
        for size, dtype in ((16, torch.float32), (8, torch.bfloat16), (4, torch.float16))
    )
    mixed = cut_mixed(maps, mask)
    assert isinstance(mixed, tuple) and len(mixed) == 3
    for before, after in zip(maps, mixed, strict=True):
        assert torch.equal(after, cut_mixed(before, mask))
        assert after.dtype == before.dtype and after.stride() == before.stride()
        assert after.is_contiguous(memory_format=torch.channels_last)
    assert cut_mixed(maps[0].contiguous(), mask).is_contiguous()


def test_what_does_not_fit_is_refused():
    for height, width, area in ((0, 8, 0.5), (8, 0, 0.5), (8, 8, 0.0), (8, 8, 1.0)):
        with pytest.raises(ValueError, match="area"):
            draw_boxes(2, height, width, seeded(), area)
    images, mask = torch.rand(2, 3, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    for values, wrong in ((images, mask[:1]), (images, mask.float()), (images, mask[:, None]), (images[0, 0], mask)):
        with pytest.raises(ValueError, match="mask"):
            cut_mixed(values, wrong)
