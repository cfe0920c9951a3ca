"""Pretrained weights: from a file, a folder, a package, under whatever names; identified by content."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import safetensors.torch
import timm
import torch

from tissuebench.errors import ConfigError
from tissuebench.methods.networks import build_encoder
from tissuebench.methods.networks.backbones import described, timm_model
from tissuebench.methods.networks.encoder_catalogue import CATALOGUE
from tissuebench.methods.networks.encoder_spec import spec_of
from tissuebench.methods.networks.encoder_weights import fitted, weights_sha256
from tissuebench.methods.networks.settings import Decoder, NetworkSettings, Weights

TINY = "vit_tiny_patch16_224"


def settings(weights: object, encoder: str = TINY) -> NetworkSettings:
    return NetworkSettings(encoder=encoder, weights=str(weights), decoder=Decoder.FPN)


def random_state(encoder: str = TINY, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(timm.create_model(encoder).state_dict())


@pytest.fixture
def state():
    return random_state()


def loaded(weights: object, encoder: str = TINY) -> dict[str, torch.Tensor]:
    return build_encoder(settings(weights, encoder)).encoder.model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_tensors_are_the_same_weights_wherever_and_however_stored(tmp_path, state):
    """Another folder, another format; one bit of one tensor, and the name of the file does not help."""
    for folder in ("a", "b", "c", "d"):
        (tmp_path / folder).mkdir()
    safetensors.torch.save_file(state, tmp_path / "a" / "uni.safetensors")
    shutil.copy(tmp_path / "a" / "uni.safetensors", tmp_path / "b" / "copy.safetensors")
    torch.save(state, tmp_path / "c" / "pytorch_model.bin")
    flipped = bytearray((tmp_path / "a" / "uni.safetensors").read_bytes())
    flipped[-3] ^= 1
    (tmp_path / "d" / "uni.safetensors").write_bytes(flipped)
    same = [weights_sha256(settings(tmp_path / path)) for path in ("a/uni.safetensors", "b/copy.safetensors", "c")]
    assert len(set(same)) == 1
    assert weights_sha256(settings(tmp_path / "d" / "uni.safetensors")) not in same
    assert weights_sha256(settings(Weights.NONE)) is None


def test_a_file_that_changes_is_read_again(tmp_path, state):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    before = weights_sha256(settings(path))
    torch.save(random_state(seed=1), path)
    assert weights_sha256(settings(path)) != before


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "visual.trunk.", "model.encoder."])
@pytest.mark.parametrize("container", [None, "state_dict", "teacher", "model"])
def test_wrapped_and_prefixed_weights_are_found(tmp_path, state, prefix, container):
    """What else the file holds, as the text tower of a vision-language model, is left out."""
    tensors = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    tensors |= {"text.token_embedding.weight": torch.zeros(3, 4), "logit_scale": torch.zeros(())} if prefix else {}
    torch.save(tensors if container is None else {container: tensors, "epoch": 3}, tmp_path / "weights.pt")
    expected = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    assert equal(loaded(tmp_path / "weights.pt"), expected)


def of_transformers(state: dict[str, torch.Tensor], registers: bool, swiglu: bool) -> dict[str, torch.Tensor]:
    """Return DINOv2 weights under the names of transformers, as its conversion script writes them."""
    renamed = {}
    for name, tensor in state.items():
        if name == "pos_embed":
            grid = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], 1) if registers else tensor
            renamed["embeddings.position_embeddings"] = grid
        elif name in ("cls_token", "reg_token"):
            renamed[{"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens"}[name]] = tensor
        elif name.startswith("patch_embed.proj."):
            renamed[f"embeddings.patch_embeddings.projection.{name.rpartition('.')[2]}"] = tensor
        elif name.startswith("norm."):
            renamed[f"layernorm.{name.rpartition('.')[2]}"] = tensor
        else:
            _, number, rest = name.split(".", 2)
            layer, kind = f"encoder.layer.{number}.", rest.rpartition(".")[2]
            if rest.startswith("attn.qkv."):
                for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    renamed[f"{layer}attention.attention.{part}.{kind}"] = piece.clone()
            else:
                for ours, theirs in (
                    ("attn.proj.", "attention.output.dense."),
                    ("ls1.gamma", "layer_scale1.lambda1"),
                    ("ls2.gamma", "layer_scale2.lambda1"),
                    *((("mlp.fc1.", "mlp.weights_in."), ("mlp.fc2.", "mlp.weights_out.")) if swiglu else ()),
                ):
                    rest = rest.replace(ours, theirs)
                renamed[f"{layer}{rest}"] = tensor
    dim = state["cls_token"].shape[-1]
    return renamed | {"embeddings.mask_token": torch.zeros(1, dim)}


@pytest.mark.parametrize(("encoder", "registers", "swiglu"), [("dinov2-s", False, False), ("hibou-b", True, True)])
def test_weights_of_transformers_are_understood(tmp_path, encoder, registers, swiglu):
    torch.manual_seed(0)
    model = timm_model(spec_of(settings(Weights.NONE, encoder)))
    torch.nn.init.normal_(model.cls_token)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(of_transformers(state, registers, swiglu), tmp_path / "model.safetensors")
    assert equal(loaded(tmp_path, encoder), state)


def test_weights_of_dinov2_itself_are_understood(tmp_path):
    state = random_state("vit_small_patch14_reg4_dinov2")
    own = {name: tensor for name, tensor in state.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    own |= {
        "register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384), "cls_token": state["cls_token"],
        "pos_embed": torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], 1),
    }  # fmt: skip
    torch.save(own, tmp_path / "dinov2.pth")
    assert equal(loaded(tmp_path / "dinov2.pth", "vit_small_patch14_reg4_dinov2"), state)


@pytest.mark.parametrize("encoder", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_files_of_other_networks_load_too(tmp_path, encoder):
    """Also where timm flattens the names of a network that is cut into stages."""
    state = random_state(encoder)
    torch.save(state, tmp_path / "weights.pth")
    seen = {name.replace(".", "_"): tensor for name, tensor in loaded(tmp_path / "weights.pth", encoder).items()}
    flat = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    assert len(seen) > 50
    assert all(torch.equal(tensor, flat[name]) for name, tensor in seen.items())


class Malicious:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused(tmp_path, state, write):
    done = tmp_path / "done"
    write(state | {"extra": Malicious(str(done))}, tmp_path / "weights.bin")
    with pytest.raises(ConfigError, match=r"weights.bin: holds more than tensors.*: refused") as caught:
        loaded(tmp_path / "weights.bin")
    assert not done.exists()
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path, state):
    whole = tmp_path / "whole.safetensors"
    safetensors.torch.save_file(state, whole)
    torch.save(state, tmp_path / "whole.bin")
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "cut.bin").write_bytes((tmp_path / "whole.bin").read_bytes()[:-100])
    (tmp_path / "text.bin").write_text("an error page")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "folder").mkdir()
    for name in ("cut.safetensors", "cut.bin", "text.bin", "empty.pt", "none.pt", "list.pt", "folder", "absent.pt"):
        with pytest.raises(ConfigError, match=rf"^network.weights: .*{name}") as caught:
            loaded(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.7.attn.qkv.weight"), r"lacks 1 of \d+ tensors .*blocks.7.attn.qkv.weight"),
        (lambda state: state.update({"norm.weight": torch.zeros(5)}), r"norm.weight is 5, the encoder's is 192"),
        (
            lambda state: state.update({"blocks.12.norm1.weight": torch.zeros(192)}),
            r"holds 1 tensors that the encoder lacks \(blocks.12.norm1.weight\)",
        ),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, state, change, said):
    change(state)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=rf"weights.pt: {said}.*: weights of another model"):
        loaded(tmp_path / "weights.pt")


def test_a_counter_that_a_file_omits_is_zero(tmp_path):
    state = {name: each for name, each in random_state("resnet18").items() if not name.endswith("batches_tracked")}
    torch.save(state, tmp_path / "weights.pt")
    assert int(loaded(tmp_path / "weights.pt", "resnet18")["bn1.num_batches_tracked"]) == 0


def test_a_relative_path_is_stored_as_an_absolute_one(tmp_path, monkeypatch):
    """A worker has another working directory."""
    monkeypatch.chdir(tmp_path)
    assert settings("weights/uni.bin").weights == str(tmp_path / "weights" / "uni.bin")
    assert settings("timm").weights is Weights.TIMM
    assert settings("hf-hub:MahmoodLab/UNI").weights == "hf-hub:MahmoodLab/UNI"


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_an_entry_says_what_timm_builds(name):
    """Patch, width and number of parameters are those of the architecture; nothing is allocated."""
    entry = CATALOGUE[name]
    model = described(spec_of(settings(Weights.NONE, name)))
    size = model.patch_embed.patch_size
    assert (size if isinstance(size, int) else size[0]) == entry.patch
    assert model.embed_dim == entry.dim
    assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(entry.parameters, rel=0.02, abs=0.6)


def test_a_configuration_beside_the_weights_describes_an_encoder_of_the_hub(tmp_path):
    """A folder in the hub's layout, of a model that is not in the catalogue."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, num_classes=0, depth=6, img_size=96)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"depth": 6, "img_size": 96},'
        ' "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 96, 96]}}'
    )
    encoder = build_encoder(settings(tmp_path, "hf-hub:group/model"))
    assert len(encoder.encoder.model.blocks) == 6
    assert encoder.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"config.json: not a model configuration"):
        build_encoder(settings(tmp_path, "hf-hub:group/model"))


def test_every_tensor_is_needed():
    """Whatever single tensor is missing, it is refused: none stays at random."""
    model = described(spec_of(settings(Weights.NONE)))
    state = {name: torch.zeros(each.shape) for name, each in model.state_dict().items()}
    for name in state:
        with pytest.raises(ConfigError):
            fitted({other: each for other, each in state.items() if other != name}, model, "file")
