"""The reader of MXNet's files: three versions of the format, and files that are damaged or were never any."""

import struct
import tracemalloc

import numpy as np
import pytest
import torch

from tests.methods.networks.mxnet_writer import VERSIONS, array, document
from tissuebench.errors import ConfigError
from tissuebench.methods.networks.mxnet_params import read_params

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)
TWO = np.array([[[[1.5]]], [[[-2.0]]]], dtype=np.float32)


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "net.params"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_each_version_is_read_as_it_was_written(written, version, dtype):
    arrays = {"arg:one": ONE.astype(dtype), "aux:zwei-ü": TWO.astype(dtype)}
    content = document([array(one, version) for one in arrays.values()], list(arrays))
    found = read_params(written(content))
    assert list(found) == list(arrays)
    for name, tensor in found.items():
        assert tensor.dtype == torch.from_numpy(arrays[name]).dtype
        assert np.array_equal(tensor.numpy(), arrays[name])
        tensor += 1  # memory of its own: a mapped file would refuse, or change


def test_a_file_written_out_by_hand(written):
    """The bytes of MXNet 1.x for ``mx.nd.save(path, {"w": mx.nd.array([2.5])})``."""
    content = bytes.fromhex(
        "1201000000000000 0000000000000000 0100000000000000"
        "c9fa93f9 00000000 01000000 0100000000000000 01000000 00000000 00000000 00002040"
        "0100000000000000 0100000000000000 77"
    )
    assert read_params(written(content)) == {"w": torch.tensor([2.5])}


def whole(version):
    return document([array(ONE, version), array(TWO, version)], ["one", "two"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_cut_anywhere_is_refused_in_one_line(written, version):
    content = whole(version)
    for length in range(len(content)):
        with pytest.raises(ConfigError, match=r"net\.params: not an MXNet \.params file, or damaged") as caught:
            read_params(written(content[:length]))
        assert "\n" not in str(caught.value)
    assert len(read_params(written(content))) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (document([], [], magic=0x113), "wrong magic number"),
        (b"PK\x03\x04" + bytes(60), "wrong magic number"),
        (whole(2) + b"\0", "1 bytes after the end"),
        (document([array(ONE, 2)], ["a", "b"]), "2 names for 1 arrays"),
        (document([array(ONE, 2)] * 2, ["a", "a"]), "a name occurs twice"),
        (document([array(ONE, 2, storage=1)], ["a"]), "a sparse array"),
        (document([array(ONE, 2, kind=3)], ["a"]), "an array of type 3"),
        (document([array(ONE, 2, kind=-1)], ["a"]), "an array of type -1"),
        (document([array(ONE, 2, shape=(-2, -3))], ["a"]), "an array of shape"),
        (document([array(ONE, 1, shape=(0, 3))], ["a"]), "an array of shape"),
        (document([struct.pack("<I", 0)], ["a"]), "an array of 0 dimensions"),
        (document([struct.pack("<I", 0xF993FACA) + bytes(64)], ["a"]), "an array of 4187224778 dimensions"),
        (document([array(ONE, 2)], [], n_names=1) + struct.pack("<Q", 1) + b"\xff", "utf-8"),
    ],
)
def test_what_else_is_refused(written, content, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_params(written(content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        document([array(ONE, 2, shape=(2**31, 2**31))], ["a"]),
        document([array(ONE, 2, shape=(2**62, 2**62, 2**62))], ["a"]),  # its size overflows 64 bits to 0
        document([array(ONE, 0, shape=(2**32 - 1, 2**32 - 1))], ["a"]),
        document([array(ONE, 2)], ["a"], n_arrays=2**64 - 1),
        document([array(ONE, 2)], ["a"], n_names=2**64 - 1),
        document([array(ONE, 2)], [])[:-8] + struct.pack("<QQ", 1, 2**64 - 1),
    ],
)
def test_sizes_beyond_the_file_take_no_memory(written, content):
    path = written(content)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"cut off|names for|an array of shape"):
            read_params(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_empty_file_and_none(written, tmp_path):
    for path in (written(b""), tmp_path / "absent.params"):
        with pytest.raises(ConfigError, match=f"{path.name}: not an MXNet"):
            read_params(path)
