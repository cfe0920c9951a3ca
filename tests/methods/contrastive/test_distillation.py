"""Contrastive distillation: golden values of images and windows, where windows are, heads, what has a gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.properties import examples
from tissuebench.methods.contrastive.distillation import (
    WindowAnchors,
    distillation_loss,
    published_rows,
    similarities,
    window_distillation_loss,
)
from tissuebench.methods.contrastive.heads import Average, GlobalHead, GlobalPredictor, LocalHead, LocalPredictor
from tissuebench.methods.contrastive.key_queue import KeyQueue
from tissuebench.methods.contrastive.windows import window_offsets, windows

GOLDEN = Path(__file__).parents[2] / "golden"
FORMS = pytest.mark.parametrize("anchors", list(WindowAnchors))


def golden(name):
    with np.load(GOLDEN / f"action_{name}.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(np.asarray(found[key])) for key in found.files}


@pytest.fixture(scope="module")
def arrays():
    return golden("distill")


@pytest.fixture(scope="module")
def local():
    return golden("local_distill")


def close(actual, expected, rtol=1e-9, atol=1e-13):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_dtype=False)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def three(seed=0, windows=(), dtype=torch.float64):
    """Student, teacher and queue."""
    return [random(n, *windows, 6, seed=3 * seed + i, dtype=dtype) for i, n in enumerate((5, 5, 8))]


# Images


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden(arrays, case):
    student, teacher, queue = (arrays[f"{case}_{name}"].clone() for name in ("student", "teacher", "queue"))
    close(similarities(student, queue, 0.1), arrays[f"{case}_student_logits"], rtol=1e-5, atol=1e-5)
    close(similarities(teacher, queue, 0.01), arrays[f"{case}_teacher_logits"], rtol=1e-5, atol=1e-4)
    student.requires_grad_()
    loss = distillation_loss(student, teacher, queue)
    close(loss, arrays[f"{case}_loss"], rtol=1e-5)
    close(torch.autograd.grad(loss, student)[0], arrays[f"{case}_grad_student"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["a", "b"])
def test_the_reference_trained_the_teachers_head_and_this_does_not(arrays, case):
    """Its gradient is that of the divergence where nothing is detached; here there is none."""
    student, teacher, queue = (arrays[f"{case}_{name}"].clone() for name in ("student", "teacher", "queue"))
    teacher.requires_grad_()
    p, q = (similarities(*each).log_softmax(dim=1) for each in ((teacher, queue, 0.01), (student, queue, 0.1)))
    (leaked,) = torch.autograd.grad((p.exp() * (p - q)).sum(dim=1).mean(), teacher)
    close(leaked, arrays[f"{case}_grad_teacher_when_not_detached"], rtol=1e-3, atol=1e-6)
    assert leaked.abs().max() > 0.01
    assert not distillation_loss(student, teacher, queue).requires_grad
    trained = distillation_loss(student, teacher, queue, teacher_learns=True)
    close(torch.autograd.grad(trained, teacher)[0], leaked)


def test_golden_ends(arrays):
    """Equal vectors: nothing at equal temperatures, else what the teacher's sharpness costs."""
    student, queue = arrays["a_student"], arrays["a_queue"]
    close(distillation_loss(student, student, queue, 0.1, 0.1), arrays["same_z_same_T_loss"], atol=1e-6)
    close(distillation_loss(student, student, queue), arrays["same_z_Ts0.1_Tt0.01_loss"], rtol=1e-5)
    assert arrays["same_z_Ts0.1_Tt0.01_loss"].item() == pytest.approx(0.658623, abs=1e-6)


def test_is_its_formula():
    student, teacher, queue = three(1)
    p, q = (
        torch.softmax(functional.cosine_similarity(z[:, None], queue[None], dim=2) / t, dim=1)
        for z, t in ((teacher, 0.02), (student, 0.2))
    )
    close(distillation_loss(student, teacher, queue, 0.2, 0.02), (p * (p / q).log()).sum(dim=1).mean())


@examples(30)
@given(st.integers(0, 10**6), st.floats(0.01, 1), st.floats(0.01, 1))
def test_not_negative_and_zero_for_equals(seed, student_temperature, teacher_temperature):
    student, teacher, queue = three(seed)
    assert distillation_loss(student, teacher, queue, student_temperature, teacher_temperature) > 0
    equal = distillation_loss(student, student.clone(), queue, teacher_temperature, teacher_temperature)
    close(equal, torch.tensor(0.0), atol=1e-12)


def test_lengths_do_not_matter():
    student, teacher, queue = three(2)
    expected = distillation_loss(student, teacher, queue)
    lengths = torch.logspace(-3, 3, 8, dtype=torch.float64)[:, None]
    close(distillation_loss(100 * student, 0.01 * teacher, lengths * queue), expected)
    close(distillation_loss(student, teacher, queue.flip(0)), expected)


@pytest.mark.parametrize("anchors", [None, *WindowAnchors])
def test_only_the_student_gets_a_gradient(anchors):
    student, teacher, queue = (each.requires_grad_() for each in three(3, () if anchors is None else (4,)))
    if anchors is None:
        loss = distillation_loss(student, teacher, queue)
    else:
        loss = window_distillation_loss(student, teacher, queue, anchors=anchors)
    loss.backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None and queue.grad is None


def test_gradient_is_that_of_finite_differences():
    student, teacher, queue = three(4)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, teacher, queue, 0.5, 0.2), student)


def test_keys_may_be_pushed_before_the_backward_pass():
    student, teacher, _ = (each.float() for each in three(5))
    student.requires_grad_()
    queue = KeyQueue(8, (6,), torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(distillation_loss(student, teacher, queue.keys.clone()), student)[0]
    loss = distillation_loss(student, teacher, queue.keys)
    queue.push(teacher)
    assert torch.equal(torch.autograd.grad(loss, student)[0], expected)


def test_without_images_it_is_zero_and_connected():
    student, _, queue = three(6)
    student.requires_grad_()
    loss = distillation_loss(student[:0], student[:0], queue)
    assert loss == 0
    assert (torch.autograd.grad(loss, student)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_any_vectors_have_a_finite_gradient(dtype, scale):
    student, teacher, queue = ((each * scale).to(dtype) for each in three(7))
    for other in (teacher, student, -student):
        leaf = student.clone().requires_grad_()
        loss = distillation_loss(leaf, other, queue)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, leaf)[0]).all()


def test_evaluated_in_float32_at_least():
    student, teacher, queue = three(8, dtype=torch.float32)
    expected = distillation_loss(student, teacher, queue)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distillation_loss(student, teacher, queue), expected)
    narrow = student.bfloat16()
    loss = distillation_loss(narrow, teacher.bfloat16(), queue)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert torch.equal(loss, distillation_loss(narrow.float(), teacher.bfloat16().float(), queue))
    assert distillation_loss(*three(8)).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    student, teacher, queue = three(9)
    for wrong in ((student[0], teacher[0], queue), (student, teacher[:4], queue), (student, teacher, queue[:, :5])):
        with pytest.raises(ValueError, match=r"\(K, D\)"):
            distillation_loss(*wrong)
        with pytest.raises(ValueError, match=r"\(K, W, D\)"):
            window_distillation_loss(*wrong)
    for temperatures in ((0.0, 0.1), (0.1, -1.0)):
        with pytest.raises(ValueError, match="temperatures"):
            distillation_loss(student, teacher, queue, *temperatures)


# Windows


def test_golden_offsets(local):
    expected = local["window_offsets_256_64"]
    assert len(expected) == 36
    assert torch.equal(window_offsets(256, 64, 32), expected)
    covering = window_offsets(256, 64, 32, cover=True)
    assert covering.shape == (49, 2) and covering[-1].tolist() == [192, 192]
    assert set(map(tuple, expected.tolist())) < set(map(tuple, covering.tolist()))


@examples(60)
@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 8), st.integers(1, 20), st.booleans())
def test_windows_are_where_the_offsets_say(size, window, stride, width, cover):
    """Maps need not be square."""
    maps = random(2, 3, size, width)
    axes = [list(range(0, side - window + cover, stride)) for side in (size, width)]
    ends = not cover or all((side - window) % stride == 0 for side in (size, width))
    if not (ends and all(axes)):
        with pytest.raises(ValueError, match="window"):
            windows(maps, window, stride, cover)
        return
    found = windows(maps, window, stride, cover)
    expected = [maps[:, :, y : y + window, x : x + window] for y in axes[0] for x in axes[1]]
    assert torch.equal(found, torch.stack(expected, dim=1))
    assert window_offsets(size, window, stride, cover).tolist() == [[y, x] for y in axes[0] for x in axes[0]]
    if cover and stride <= window:
        assert {y + row for y in axes[0] for row in range(window)} == set(range(size))


def test_windows_that_cannot_be_are_refused():
    for options in ((0, 1), (4, 0), (-1, 2)):
        with pytest.raises(ValueError, match="positive"):
            window_offsets(16, *options)
    with pytest.raises(ValueError, match="no window"):
        window_offsets(64, 64, 32)  # the last is the only one, and the last is left out
    assert window_offsets(64, 64, 32, cover=True).tolist() == [[0, 0]]


def features(local, prefix, predictor):
    head, n_classes = LocalHead(3, pool=4), 3
    head.load_state_dict({key.removeprefix(prefix): value for key, value in local.items() if key.startswith(prefix)})
    maps = local["student_out" if predictor else "teacher_out"]
    vectors = head(windows(maps, 16, 8))
    if predictor:
        last = LocalPredictor(n_classes)
        last.load_state_dict({key.removeprefix("pred::"): value for key, value in local.items() if "pred::" in key})
        vectors = last(vectors)
    return vectors


def test_golden_vectors_of_windows(local):
    close(features(local, "khead::", False), local["teacher_feats"], rtol=1e-4, atol=1e-6)
    close(features(local, "qhead::", True), local["student_feats"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("anchors", "name"),
    [(WindowAnchors.SAME_WINDOW, "intended_same_window_loss"), (WindowAnchors.PUBLISHED, "ref_code_loss")],
)
def test_golden_loss_of_windows(local, anchors, name):
    vectors = features(local, "qhead::", True), features(local, "khead::", False), local["queue"]
    close(window_distillation_loss(*vectors, anchors=anchors), local[name], rtol=1e-5)


def test_golden_rows_of_the_official_code(local):
    close(published_rows(local["student_feats"]), local["ref_rows_student"], rtol=1e-6)


def test_windows_one_by_one():
    student, teacher, queue = three(10, (4,))
    same = [distillation_loss(student[:, w], teacher[:, w], queue[:, w]) for w in range(4)]
    close(window_distillation_loss(student, teacher, queue), torch.stack(same).mean())
    every = [distillation_loss(student[:, w], teacher[:, w], queue.reshape(-1, 6)) for w in range(4)]
    found = window_distillation_loss(student, teacher, queue, anchors=WindowAnchors.ALL_WINDOWS)
    close(found, torch.stack(every).mean())


def test_order_of_windows_matters_to_the_same_window_only():
    student, teacher, queue = three(11, (4,))
    shuffled = queue[:, [2, 0, 3, 1]]
    for anchors, least, most in ((WindowAnchors.SAME_WINDOW, 1e-3, 1), (WindowAnchors.ALL_WINDOWS, 0, 1e-12)):
        losses = [window_distillation_loss(student, teacher, each, anchors=anchors) for each in (queue, shuffled)]
        assert least <= (losses[1] - losses[0]).abs() < most


@FORMS
def test_one_window_of_one_image_needs_no_form(anchors):
    """But the published form, which then compares single numbers: their signs."""
    student, teacher, queue = three(12, (1,))
    found = window_distillation_loss(student, teacher, queue, anchors=anchors)
    if anchors in (WindowAnchors.PUBLISHED, WindowAnchors.OFFICIAL):
        close(found, distillation_loss(*(each.sign().reshape(-1, 1) for each in (student, teacher, queue))))
    else:
        close(found, distillation_loss(student[:, 0], teacher[:, 0], queue[:, 0]))


@FORMS
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_any_windows_have_a_finite_gradient(anchors, scale):
    student, teacher, queue = ((each * scale).bfloat16() for each in three(13, (4,)))
    student.requires_grad_()
    loss = window_distillation_loss(student, teacher, queue, anchors=anchors)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


# Heads


def test_global_head_and_predictor():
    torch.manual_seed(0)
    head, predictor, maps = GlobalHead(8, 6, 5).double(), GlobalPredictor(5).double(), random(3, 8, 4, 2)
    first, second = head.proj
    mean = maps.flatten(2).mean(dim=2)
    expected = (mean @ first.weight.T + first.bias) @ second.weight.T + second.bias
    close(head(maps), expected)
    for layer in predictor:
        expected = expected @ layer.weight.T + layer.bias
    close(predictor(head(maps)), expected)


def test_published_sizes_of_heads():
    with torch.device("meta"):
        parts = GlobalHead(256), GlobalPredictor(), LocalHead(4), LocalPredictor(4)
        assert parts[0](torch.empty(2, 256, 16, 16)).shape == (2, 512)
        vectors = parts[2](torch.empty(2, 36, 4, 64, 64))
        assert vectors.shape == parts[3](vectors).shape == (2, 36, 256)
    shapes = [[tuple(each.shape) for each in part.parameters()] for part in parts]
    assert shapes == [
        [(256, 256), (256,), (512, 256), (512,)],
        [(512, 512), (512,), (512, 512), (512,)],
        [(8, 4, 1, 1), (8,), (4, 8, 1, 1), (4,)],
        [(4, 4, 1, 1), (4,), (4, 4, 1, 1), (4,)],
    ]
    kinds = {type(module) for part in parts for module in part.modules() if not list(module.children())}
    assert kinds == {nn.Linear, nn.Conv2d, Average}


def test_gradient_reaches_the_maps_through_windows_and_heads():
    torch.manual_seed(1)
    maps = random(2, 3, 24, 24, dtype=torch.float32).requires_grad_()
    head, predictor = LocalHead(3, pool=4), LocalPredictor(3)
    vectors = predictor(head(windows(maps, 8, 4)))
    teacher = random(2, 16, 48, seed=2, dtype=torch.float32)
    loss = window_distillation_loss(vectors, teacher, random(4, 16, 48, seed=3, dtype=torch.float32))
    loss.backward()
    seen = maps.grad.abs().sum(dim=(0, 1)) > 0
    assert seen[:20, :20].all() and not seen[20:].any() and not seen[:, 20:].any()
    assert all(each.grad.abs().max() > 0 for each in [*head.parameters(), *predictor.parameters()])
