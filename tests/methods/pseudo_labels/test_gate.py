"""The gate: what it promises, and what the published one does instead."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tissuebench.methods.pseudo_labels.gate import gate, official_gate


def distribution(seed, scale=3.0, shape=(3, 4, 6, 6)):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).softmax(dim=1)


@st.composite
def situations(draw):
    seed = draw(st.integers(0, 2**31))
    scale = draw(st.sampled_from([1.0, 30.0, 300.0]))  # at the largest most probabilities are exactly 0
    scores = torch.tensor(
        [[draw(st.sampled_from([0.0, 0.05, 0.1, 0.11, 0.5, 1.0])) for _ in range(4)] for _ in range(3)]
    )
    return distribution(seed, scale), scores


@examples(80)
@given(situations())
def test_what_comes_out_is_a_distribution_over_open_classes(situation):
    probabilities, scores = situation
    gated = gate(probabilities, scores)
    torch.testing.assert_close(gated.sum(dim=1), torch.ones(3, 6, 6))
    assert (gated >= 0).all()
    for before, after, is_open in zip(probabilities, gated, scores > 0.1, strict=True):
        if is_open.all() or not is_open.any():
            assert torch.equal(after, before)
            continue
        assert (after[~is_open] == 0).all()
        assert torch.isin(after.argmax(dim=0), is_open.nonzero()).all()
        left = before[is_open]
        total = left.sum(dim=0)
        given_open = torch.where(total > 0, left / total.clamp(min=1e-45), 1 / is_open.sum())
        torch.testing.assert_close(after[is_open], given_open)


def test_no_mass_left_is_shared_equally():
    probabilities = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
    gated = gate(probabilities, torch.tensor([[0.0, 0.9, 0.0, 0.9]]))
    assert gated.flatten().tolist() == [0, 0.5, 0, 0.5]


def test_tiny_masses_keep_their_proportions():
    probabilities = torch.tensor([1.0, 2e-30, 6e-30]).view(1, 3, 1, 1)
    gated = gate(probabilities, torch.tensor([[0.0, 0.9, 0.9]]))
    torch.testing.assert_close(gated.flatten(), torch.tensor([0.0, 0.25, 0.75]))


def test_a_score_of_just_the_threshold_is_closed():
    scores = torch.tensor([[0.1, 0.1000001, 0.2, 0.0]] * 3)
    assert torch.equal((gate(distribution(0), scores) > 0).any(dim=(2, 3))[0], torch.tensor([0, 1, 1, 0]).bool())
    assert torch.equal((gate(distribution(0), scores, 0.15) > 0).any(dim=(2, 3))[0], torch.tensor([0, 0, 1, 0]).bool())
    doubled = gate(distribution(0).double(), torch.full((3, 4), 0.1, dtype=torch.float64))
    assert torch.equal(doubled, distribution(0).double())


def test_all_scores_one_is_the_identity():
    probabilities = distribution(1)
    assert torch.equal(gate(probabilities, torch.ones(3, 4)), probabilities)


def test_the_best_open_class_is_that_of_logits_without_the_closed_ones():
    logits = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(2))
    scores = torch.tensor([[0.9, 0.05, 0.3, 0.0], [0.0, 0.0, 0.2, 0.6], [0.1, 0.7, 0.1, 0.1]])
    masked = logits.masked_fill((scores <= 0.1)[:, :, None, None], -torch.inf)
    assert torch.equal(gate(logits.softmax(dim=1), scores).max(dim=1).indices, masked.max(dim=1).indices)


def test_the_official_gate_adds_what_it_was_to_remove():
    """All open logits negative: the closed class, at 0, wins. The gate on probabilities cannot do that."""
    logits = torch.tensor([-1.0, -2.0, -3.0, -4.0]).view(1, 4, 1, 1)
    scores = torch.tensor([[0.9, 0.9, 0.05, 0.9]])
    assert logits.max(dim=1).indices.item() == 0
    assert official_gate(logits, scores, 0.1).max(dim=1).indices.item() == 2
    assert gate(logits.softmax(dim=1), scores, 0.1).max(dim=1).indices.item() == 0


def test_the_official_gate_multiplies_and_nothing_else():
    logits = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    scores = torch.tensor([[0.9, 0.05, 0.3, 0.1], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    gated = official_gate(logits, scores, 0.1)
    assert torch.equal(gated[0], logits[0] * torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1))
    assert (gated[1] == 0).all()
    assert torch.equal(gated[2], logits[2])
    positive = logits.abs()  # only where open logits are negative do the two differ
    assert torch.equal(
        official_gate(positive, scores, 0.1)[[0, 2]].argmax(dim=1),
        gate(positive.softmax(dim=1), scores, 0.1)[[0, 2]].argmax(dim=1),
    )
