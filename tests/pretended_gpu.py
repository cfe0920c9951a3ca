"""A device that pretends to be a GPU: it computes on the CPU, and counts what would make the host wait for a GPU.

Python code sees ``cuda:0`` as the device of a tensor, so it takes the paths that it takes on a GPU. As there, an
operation must not mix tensors of both sides, except for single numbers.
"""

from __future__ import annotations

import traceback
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

GPU = torch.device("cuda", 0)
_aten = torch.ops.aten
_WAITS = {
    _aten._local_scalar_dense.default: "a number is read",
    _aten.nonzero.default: "places are counted",
    _aten.masked_select.default: "places are counted",
    _aten._unique2.default: "different values are counted",
    _aten.unique_dim.default: "different values are counted",
    _aten.unique_consecutive.default: "different values are counted",
    _aten.bincount.default: "the largest value is read",
    _aten.equal.default: "a truth value is read",
    _aten.repeat_interleave.Tensor: "repeats are summed",
}
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_BETWEEN_BOTH = {_aten.copy_.default, _aten._to_copy.default}


class Pretended(torch.Tensor):
    """A tensor on the pretended GPU; ``held`` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    waits: list[str] | None = None

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, requires_grad=held.requires_grad
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Pretended({self.held})"

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        strange = [each for each in tensors if not isinstance(each, Pretended) and each.dim()]
        if func in _WAITS:
            waiting(_WAITS[func])
        if func in _INDEXED:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype == torch.bool for index in indices):
                waiting("places are counted")
            if strange:
                waiting("an index is copied")
        elif strange and func not in _BETWEEN_BOTH:
            raise AssertionError(f"{func}: tensors of {[tuple(each.shape) for each in strange]} are not on the GPU")
        held = [leaf.held if isinstance(leaf, Pretended) else leaf for leaf in leaves]
        plain_args, plain_kwargs = tree_unflatten(held, spec)
        result = func(*plain_args, **plain_kwargs)
        result = tree_map_only(torch.Tensor, Pretended, result)
        return return_and_correct_aliasing(func, args, kwargs, result)


class _OnTheGpu(TorchFunctionMode):
    """Has whatever is made on, or moved to, the pretended GPU made on the CPU and wrapped."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Pretended) and name in ("tolist", "numpy", "cpu"):
            waiting(f"{name}() copies the tensor")
            return func(args[0].held.detach(), *args[1:], **kwargs)
        if name == "to" and any(_is_gpu(each) for each in (*args[1:], *kwargs.values())):
            return _moved(func, args, kwargs)
        if name == "new_tensor" and isinstance(args[0], Pretended):
            waiting("numbers are copied from the host")
            return Pretended(func(args[0].held, *args[1:], **kwargs))
        if _is_gpu(kwargs.get("device")):
            if name in ("tensor", "as_tensor"):
                waiting("numbers are copied from the host")
            made = func(*args, **{**kwargs, "device": torch.device("cpu")})
            return made if isinstance(made, Pretended) else Pretended(made)
        return func(*args, **kwargs)


def _is_gpu(value):
    return isinstance(value, Pretended) or str(value).startswith("cuda")


def _moved(func, args, kwargs):
    tensor, *rest = args
    dtypes = [each.dtype if isinstance(each, torch.Tensor) else each for each in (*rest, kwargs.get("dtype"))]
    dtype = next((each for each in dtypes if isinstance(each, torch.dtype)), tensor.dtype)
    if isinstance(tensor, Pretended):
        return tensor.to(dtype)
    if not kwargs.get("non_blocking"):
        waiting("a copy to the GPU blocks")
    return Pretended(tensor.to(dtype))


class _Generator(torch.Generator):
    """A generator of the pretended GPU."""

    device = property(lambda self: GPU)

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu") if _is_gpu(device) else torch._C.Generator(device)


def waiting(why):
    """Note that the host would wait, and where."""
    if Pretended.waits is not None:
        own = [frame for frame in traceback.extract_stack() if "tissuebench" in frame.filename]
        where = f"{own[-1].filename.rpartition('tissuebench/')[2]}:{own[-1].lineno}" if own else "?"
        Pretended.waits.append(f"{where}: {why}")


def move(module):
    """Move a module to the pretended GPU, in place."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                held = Pretended(weight.detach())
                part._parameters[name] = torch.nn.Parameter(held, weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Pretended(buffer)
        if hasattr(part, "_device"):
            part._device = GPU
    return module


@contextmanager
def waits_of(monkeypatch):
    """List what would make the host wait, with its place, while the block runs."""
    monkeypatch.setattr(torch, "Generator", _Generator)
    Pretended.waits = []
    try:
        with _OnTheGpu():
            yield Pretended.waits
    finally:
        Pretended.waits = None
