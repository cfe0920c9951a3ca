"""Contrast between the pixels of a batch: ReCo (Liu et al., ICLR 2022), the "AnCo" loss of ACTION (IPMI 2023).

Pixels are numbered in raster order, ``(b H + y) W + x`` in a batch (B, H, W); representations are rows indexed by this
number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tissuebench.datasets.types import IGNORE_LABEL
from tissuebench.methods.api.whole_batch import n_processes

_EPS = 1e-8  # lower bound of the norms that a cosine divides by, as in torch
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**24  # numbers gathered at once: 1 MiB fits a core's cache, 64 MiB fills a GPU
_SUMMED_ROWS = 2**11
_DENSE_KEYS, _DENSE_CHUNK = 128, 2**22
"""Maximum keys per negative for dense products with all keys, and the number of products at once: 16 MiB."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pixels that can be drawn for each class.

    Attributes:
        valid: (V,) int64, numbers of all pixels with a class: sorted by class, in raster order within a class. On a GPU
            all other pixels follow, as cutting them off would wait for their number.
        valid_counts: (K,) int64, the size of V_c for each class c.
        hard: (H,) int64, the subset that the student is not confident about, in the same order, likewise.
        hard_counts: (K,) int64, the size of H_c.
    """

    valid: Tensor
    valid_counts: Tensor
    hard: Tensor
    hard_counts: Tensor

    @property
    def present(self) -> Tensor:
        """Classes with at least one pixel, (K,) bool."""
        return self.valid_counts > 0


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sampled pixels: Q queries for each of C classes, and N negatives for each query.

    Attributes:
        classes: (C,) int64, the present classes with a hard pixel; none if fewer than two classes are present. On a GPU
            all classes, as their number is not known without waiting for it.
        queries: (C, Q) int64, pixel numbers.
        negatives: (C, Q, N) int64, pixel numbers.
        n_present: () int64, number of present classes; the loss is divided by it.
        counted: (C,) bool, which of the classes count in the loss, the pixels of others being arbitrary; None: all.
    """

    classes: Tensor
    queries: Tensor
    negatives: Tensor
    n_present: Tensor | int
    counted: Tensor | None = None


def pixel_rows(maps: Tensor) -> Tensor:
    """Return maps (B, D, H, W) as rows (B H W, D), one per pixel; a view without a copy if channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def candidates(labels: Tensor, probabilities: Tensor, strong: float = 0.97) -> Candidates:
    """Return the pixels V_c of each class c, and the subset H_c whose probability of c is below ``strong``.

    Args:
        labels: (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``; pseudo-labels with too low a teacher confidence (0.7 as
            published) must already be ignored.
        probabilities: (B, K, H, W) of the student; no gradient flows.
        strong: confidence threshold, 0.97 as published.

    Raises:
        ValueError: shapes do not match.
    """
    if probabilities.ndim != 4 or labels.shape != probabilities[:, 0].shape:
        shapes = f"{tuple(labels.shape)} and {tuple(probabilities.shape)}"
        raise ValueError(f"labels must be (B, H, W) and probabilities (B, K, H, W), not {shapes}")
    flat, classes = labels.flatten(), probabilities.shape[1]
    of_class = labels.clamp(max=classes - 1)[:, None]
    hard = (probabilities.detach().gather(1, of_class) < strong).flatten()
    return Candidates(*_by_class(flat, classes), *_by_class(flat.masked_fill(~hard, IGNORE_LABEL), classes))


def _by_class(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the pixels sorted by class, ignored ones last or cut off, and the size of each class."""
    found, order = labels.to(torch.uint8).sort(stable=True)  # bytes are sorted several times faster
    numbers = torch.arange(classes, dtype=torch.uint8, device=labels.device)
    ends = torch.searchsorted(found, numbers, right=True)
    counts = ends.diff(prepend=ends.new_zeros(1))
    return order[: int(ends[-1])] if labels.device.type == "cpu" else order, counts


def prototypes(keys: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return ``r_c``, the mean representation over V_c.

    Args:
        keys: (P, D), one row per pixel; summed in float32 or wider; no gradient flows.
        labels: (P,) or (B, H, W) int64 in 0..K-1 or ``IGNORE_LABEL``.
        classes: K.

    Returns:
        (K, D) of the keys' dtype, at least float32; 0 for absent classes.
    """
    dtype = torch.promote_types(keys.dtype, torch.float32)
    numbers = torch.arange(classes, device=keys.device)[:, None]
    sums, counts = keys.new_zeros(classes, keys.shape[1], dtype=dtype), keys.new_zeros(classes, 1, dtype=dtype)
    with torch.no_grad(), torch.autocast(keys.device.type, enabled=False):
        for rows, own in zip(*(torch.split(part, _SUMMED_ROWS) for part in (keys, labels.flatten())), strict=True):
            of_class = (own == numbers).to(dtype)
            sums += of_class @ rows.to(dtype)
            counts += of_class.sum(dim=1, keepdim=True)
    return sums / counts.clamp(min=1)


def relation(prototypes: Tensor, present: Tensor, temperature: float = 0.5) -> Tensor:
    """Return ``P(v | c) = softmax over present v != c of cos(r_c, r_v) / tau``; similar classes are more likely.

    Args:
        prototypes: r, (K, D).
        present: (K,) bool.
        temperature: tau; 0.5 as published.

    Returns:
        (K, K), the probabilities of v in row c; 0 for absent c and where no other class is present.
    """
    with torch.autocast(prototypes.device.type, enabled=False):
        unit = functional.normalize(prototypes, dim=1, eps=_EPS)
        scores = unit @ unit.T / temperature
    others = present & ~torch.eye(len(present), dtype=torch.bool, device=present.device)
    row_is_empty = ~(present & others.any(dim=1))[:, None]
    return scores.masked_fill(~others, -torch.inf).softmax(dim=1).masked_fill(row_is_empty, 0)


def sample(
    found: Candidates,
    probabilities: Tensor,
    generator: torch.Generator,
    n_queries: int = 256,
    n_negatives: int = 512,
) -> Sampled:
    """Draw queries uniformly from H_c, and negatives for each: a class v by P(v | c), then a pixel from V_v.

    Sampling is with replacement, so a class with a single hard pixel gets as many queries as any other.

    Args:
        found: the candidate pixels.
        probabilities: P, (K, K), from ``relation``.
        generator: all random numbers are drawn on its device and moved to that of the pixels.
        n_queries: Q, 256 as published.
        n_negatives: N, 512 as published.
    """
    device = found.valid.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(device)

    def drawn(pixels: Tensor, counts: Tensor, of_class: Tensor, random: Tensor) -> Tensor:
        starts = counts.cumsum(dim=0) - counts
        # A count times a double below 1 rounds to less than the count.
        places = starts[of_class] + (random * counts[of_class]).long()
        return pixels[places.clamp(max=max(len(pixels) - 1, 0))]  # of a class without pixels, any

    n_present = found.present.sum()
    counted = (found.hard_counts > 0) & (n_present > 1)
    classes = torch.arange(len(counted), device=device)
    if device.type == "cpu":
        classes, counted = classes[counted], counted[counted]
    queries = drawn(found.hard, found.hard_counts, classes[:, None], uniform(len(classes), n_queries))
    # Sums, not ``cumsum``, which is not deterministic on a GPU.
    upto = torch.ones(len(probabilities), len(probabilities), dtype=torch.float64, device=device).tril()
    reached = (probabilities[classes].double()[:, None] * upto).sum(dim=-1)
    last = reached[:, -1:]
    reached = reached / last.where(last > 0, 1)  # exactly 1, which no number reaches, from the last possible class on
    of_class = torch.searchsorted(reached, uniform(len(classes), n_queries * n_negatives), right=True)
    of_class = of_class.clamp(max=len(probabilities) - 1).view(-1, n_queries, n_negatives)
    negatives = drawn(found.valid, found.valid_counts, of_class, uniform(*of_class.shape))
    return Sampled(classes, queries, negatives, n_present, counted)


def pixel_contrast_loss(
    queries: Tensor,
    prototypes: Tensor,
    keys: Tensor,
    sampled: Sampled,
    temperature: float = 0.5,
    own: Tensor | None = None,
) -> Tensor:
    """Contrast between sampled pixels: queries are attracted to their class prototype and repelled by the negatives.

    ``1/M sum over c of 1/Q sum over q of -log(e^{q . r_c} / (e^{q . r_c} + sum over n of e^{q . k_n}))``, where
    ``a . b`` is cos(a, b) / tau, c runs over the classes with a hard pixel, and M is the number of present classes. The
    gradient flows to the queries only, and only to first order. With fewer than two classes or no hard pixel the loss
    is a graph-connected 0. If the batch is spread over several processes, all have the keys and the sample of the whole
    batch and each passes its ``own`` queries: the mean of their losses is the loss of the whole batch.

    The gathered negatives, 1 GiB at the published sizes, are never held in memory at once: they are processed in chunks
    whose part of the gradient is computed immediately. Besides the arguments, memory holds (P) norms, a few (C Q, D)
    tensors, and per chunk max(N D, 2^18) numbers, 2^24 on a GPU. CPUs multiply bfloat16 much faster than they gather
    it: with bfloat16 keys, unless there are too many, each chunk is multiplied with all of them, which takes max(P,
    2^22) numbers three times and rounds cosines to bfloat16, like the keys themselves.

    Args:
        queries: (C, Q, D), the rows ``sampled.queries`` of the representations; evaluated in float32 or wider. With
            ``own``, (M, D), these of the C Q rows.
        prototypes: r, (K, D).
        keys: k, (P, D), one row per pixel; contiguous rows are gathered fastest.
        sampled: the sampled pixels.
        temperature: tau; 0.5 as published.
        own: (M,) int64, places of the queries in the flattened sample; None for all of them.

    Returns:
        () of the queries' dtype, at least float32.

    Raises:
        ValueError: the queries do not match the sample.
    """
    drawn = tuple(sampled.queries.shape) if own is None else (len(own),)
    if queries.shape != (*drawn, keys.shape[1]):
        raise ValueError(f"queries must be {(*drawn, keys.shape[1])}, as drawn, not {tuple(queries.shape)}")
    queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
    unit = functional.normalize(queries, dim=-1, eps=_EPS).flatten(0, -2)
    n_queries = sampled.queries.shape[1]
    counted = torch.ones_like(sampled.classes, dtype=torch.bool) if sampled.counted is None else sampled.counted
    of_class, counted = (each.repeat_interleave(n_queries) for each in (sampled.classes, counted))
    negatives = sampled.negatives.flatten(0, 1)
    if own is not None:
        of_class, counted, negatives = of_class[own], counted[own], negatives[own]
    parts = (unit.detach(), prototypes.detach(), keys.detach(), of_class, counted, negatives)
    total, slope = _value_and_slope(*parts, temperature)
    # Value from the first term, gradient from the second: a real backward pass would need all negatives again.
    mine = total + (slope * (unit - unit.detach())).sum()
    return mine * n_processes() / torch.as_tensor(sampled.n_present * n_queries).clamp(min=1)


@torch.no_grad()
def _value_and_slope(
    unit: Tensor,
    prototypes: Tensor,
    keys: Tensor,
    of_class: Tensor,
    counted: Tensor,
    negatives: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of the M queries that count, (), and its derivative by their ``unit``, (M, D).

    ``d/dq = 1/tau (sum over n of p_n k_n + (p_0 - 1) r_c)`` with p the softmax of the logits, index 0 the positive.
    """
    dtype, n_negatives = unit.dtype, negatives.shape[1]
    positives = functional.normalize(prototypes.to(dtype), dim=1, eps=_EPS)[of_class]
    # In parts, since converting all keys to a wider dtype at once would make a large copy.
    lengths = [torch.linalg.vector_norm(rows, dim=1, dtype=dtype) for rows in torch.split(keys, _SUMMED_ROWS)]
    scales = 1 / (torch.cat(lengths).clamp(min=_EPS) * temperature)
    pull: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    if keys.dtype is torch.bfloat16 and unit.device.type == "cpu" and len(keys) <= _DENSE_KEYS * n_negatives:
        chunk = max(_DENSE_CHUNK // len(keys), 1)
        pull = _Multiplied(keys, chunk, dtype)
    else:
        elements = _CPU_CHUNK if unit.device.type == "cpu" else _GPU_CHUNK
        chunk, pull = max(elements // (n_negatives * keys.shape[1]), 1), _gathered
    # Written in place: small results allocated between large chunks would fragment the heap and make it grow.
    total, slopes, counts = unit.new_zeros(()), torch.empty_like(unit), counted.to(dtype)
    every_query = (unit, positives, negatives, slopes, counts)
    with torch.autocast(unit.device.type, enabled=False):
        for q, positive, numbers, slope, count in zip(*(torch.split(part, chunk) for part in every_query), strict=True):
            total += (pull(q, positive / temperature, keys, numbers, scales[numbers], slope) * count).sum()
    return total, slopes.mul_(counts[:, None])


def _gathered(q: Tensor, positive: Tensor, keys: Tensor, numbers: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
    """Return the losses of a chunk of queries, (q,), computed from the gathered rows of their negatives.

    Args:
        q: (q, D) unit vectors.
        positive: (q, D) unit prototypes divided by tau.
        keys: (P, D).
        numbers: (q, N) row numbers of the negatives.
        scale: (q, N), 1 / (norm of the negative * tau).
        slope: (q, D), overwritten with the derivative.
    """
    rows = keys.index_select(0, numbers.flatten()).to(q.dtype).view(*numbers.shape, keys.shape[1])
    loss, p = _softmax(q, positive, torch.bmm(rows, q[:, :, None])[:, :, 0] * scale, slope)
    slope.add_(torch.bmm((p * scale)[:, None], rows)[:, 0])
    return loss


class _Multiplied:
    """Counterpart of ``_gathered`` that multiplies with all keys.

    The buffers are shared by all chunks: mapping new memory pages would cost more than the products themselves.

    Args:
        keys: (P, D).
        chunk: maximum queries at once.
        dtype: dtype of the queries.
    """

    def __init__(self, keys: Tensor, chunk: int, dtype: torch.dtype) -> None:
        self._products = keys.new_empty(chunk * len(keys))
        self._weights = keys.new_zeros(chunk, len(keys), dtype=dtype)  # always cleared after use
        self._narrow = keys.new_empty(chunk, len(keys))

    def __call__(
        self, q: Tensor, positive: Tensor, keys: Tensor, numbers: Tensor, scale: Tensor, slope: Tensor
    ) -> Tensor:
        """Return the losses of a chunk; arguments as in ``_gathered``."""
        products = self._products[: len(q) * len(keys)].view(len(keys), len(q))
        torch.mm(keys, q.to(keys.dtype).T, out=products)  # three times faster than with the keys transposed
        loss, p = _softmax(q, positive, products.T.gather(1, numbers).to(q.dtype) * scale, slope)
        weights = self._weights[: len(q)].scatter_add_(1, numbers, p * scale)  # bfloat16 would copy the whole tensor
        slope.add_(self._narrow[: len(q)].copy_(weights) @ keys)
        weights.scatter_(1, numbers, 0)
        return loss


def _softmax(q: Tensor, positive: Tensor, logits: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses and the negatives' probabilities; overwrite ``slope`` with the positives' contribution."""
    log_p = torch.cat([(q * positive).sum(dim=1, keepdim=True), logits], dim=1).log_softmax(dim=1)
    p = log_p.exp()
    slope.copy_((p[:, :1] - 1) * positive)
    return -log_p[:, 0], p[:, 1:]
