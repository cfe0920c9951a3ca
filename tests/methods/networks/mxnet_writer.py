"""Writer of MXNet's ``.params`` files in all three versions of the format, byte by byte."""

import struct

import numpy as np

VERSIONS = (0, 1, 2)
_KINDS = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 2, np.dtype(np.uint8): 3}


def array(values, version, *, storage=0, shape=None, kind=None):
    """Return the bytes of one array, with another shape or type number than its own if given."""
    shape = values.shape if shape is None else shape
    parts = []
    if version == 0:
        parts += [struct.pack("<I", len(shape)), *(struct.pack("<I", side) for side in shape)]
    else:
        parts += [struct.pack("<I", {1: 0xF993FAC8, 2: 0xF993FAC9}[version])]
        parts += [struct.pack("<i", storage)] if version == 2 else []
        parts += [struct.pack("<I", len(shape)), *(struct.pack("<q", side) for side in shape)]
    parts += [struct.pack("<ii", 1, 0), struct.pack("<i", _KINDS[values.dtype] if kind is None else kind)]
    return b"".join(parts) + values.tobytes()


def document(arrays, names, *, magic=0x112, n_arrays=None, n_names=None):
    """Return the bytes of a file of these arrays, which are bytes themselves."""
    parts = [struct.pack("<QQ", magic, 0), struct.pack("<Q", len(arrays) if n_arrays is None else n_arrays), *arrays]
    parts += [struct.pack("<Q", len(names) if n_names is None else n_names)]
    parts += [struct.pack("<Q", len(name.encode())) + name.encode() for name in names]
    return b"".join(parts)


def write_params(path, tensors, version):
    """Write named torch tensors."""
    path.write_bytes(document([array(one.numpy(), version) for one in tensors.values()], list(tensors)))


def mxnet_name(name):
    """Return the name in MXNet's ResNet-38 of a tensor of the PyTorch one."""
    layer, _, rest = name.partition(".")
    what = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    if layer == "conv1a":
        return "arg:conv1a_weight"
    kind = "aux" if "running" in name else "arg"
    if layer == "bn7":
        return f"{kind}:bn7_{what.get(rest, 'gamma')}"
    part, _, last = rest.partition(".")
    stage, _, unit = layer[1:].partition("_")
    unit = f"b{unit}" if unit else "a"
    if part.startswith("conv"):
        return f"arg:res{stage}{unit}_{part.removeprefix('conv_')}_weight"
    return f"{kind}:bn{stage}{unit}_{part.removeprefix('bn_')}_{what.get(last, 'gamma')}"
