"""Random numbers of a GPU drawn on the CPU: a step there then draws what it draws here, and the two can be compared."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_FACTORIES = (aten.randn, aten.rand, aten.randint, aten.randperm)


class DrawsOnTheCpu(TorchDispatchMode):
    """Below autograd and autocast. Every draw of a network or method must be among these: others raise."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kind = func.overloadpacket
        if kind in _FACTORIES and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            return func(*args, **{**kwargs, "device": "cpu", "pin_memory": False}).to(kwargs["device"])
        if kind is aten.native_dropout:
            image, rate, _ = args
            kept = torch.empty_like(image, device="cpu", dtype=torch.float32).bernoulli_(1 - rate).to(image.device)
            return (image * kept.to(image.dtype) / (1 - rate)), kept.bool()
        if kind is aten.bernoulli_ and args[0].is_cuda:
            noise, share = args
            return noise.copy_(torch.empty_like(noise, device="cpu", dtype=torch.float32).bernoulli_(share))
        is_attention = (
            "scaled_dot_product" in kind.__name__ or "sdp" in kind.__name__
        )  # draws for its dropout: none here
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            and not is_attention
            and any(isinstance(each, torch.Tensor) and each.is_cuda for each in args)
        ):
            raise AssertionError(f"{func} draws on the GPU: add it to DrawsOnTheCpu")
        return func(*args, **kwargs)
