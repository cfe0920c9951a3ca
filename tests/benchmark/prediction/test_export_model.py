"""Export of a trained trial: the files say and do what the method does, or nothing is written."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import tissuebench.prediction.export_model as exporting
from tissuebench.cli.main import cli
from tissuebench.errors import ConfigError, DataError, TissueBenchError
from tissuebench.evaluation.stitching import ImageWindows, Stitching, strips
from tissuebench.methods.api.contract import make_method
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.prediction.export_model import export_model, sample_tiles
from tissuebench.prediction.load_method import find_trained
from tissuebench.prediction.model_card import _text
from tissuebench.prediction.onnx_model import OnnxModel, share_of_differing_labels, write_onnx
from tissuebench.results.records.result_store import ResultStore
from tissuebench.results.tables.comparable import results_folder

pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder that the command wrote."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    arguments = ["trial", "export", trained.trial[:8], "--onnx", "--to", str(folder), "--home", str(trained.home)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder)
    assert "0.0000% of the pixels" in done.stderr
    return folder


def test_the_graph_gives_the_labels_of_the_method_on_tiles_of_any_number_and_size(trained, exported):
    method, model = find_trained(trained.home, trained.trial).method(), OnnxModel(exported / "model.onnx")
    images = sample_tiles(trained.store, 9)
    differing, largest = share_of_differing_labels(method, model, images)
    assert differing <= 1e-4 and largest < 1e-4
    assert len({image.tobytes() for image in images}) > 1
    for shape in ((1, 3, 64, 64), (5, 3, 32, 96)):
        batch = torch.randint(0, 256, shape, dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(model.predict(batch), method.predict(batch), rtol=0, atol=1e-5)
    assert model.predict(batch).dtype == torch.float32


def test_a_whole_slide_stitched_by_the_graph_has_the_labels_of_the_method(trained, exported):
    method, model = find_trained(trained.home, trained.trial).method(), OnnxModel(exported / "model.onnx")
    slide = next(iter(trained.store.slides.values()))
    how = Stitching(64, 16, "none", torch.device("cpu"), "32-true")

    def labels(by):
        canvas = np.full((slide.height, slide.width), 99, np.uint8)
        read = lambda y, x, h, w: trained.store.image(slide.slide_id, y, x, h, w)  # noqa: E731
        windows = ImageWindows(read, how)
        for strip in strips(by, windows, slide.height, slide.width, len(trained.store.class_map), how):
            height, width = strip.classes.shape
            canvas[strip.y : strip.y + height, strip.x : strip.x + width] = strip.classes
        return canvas

    assert (labels(method) != labels(model)).mean() <= 1e-4


def test_the_weights_are_those_of_the_method_without_pickled_code(trained, exported):
    from safetensors import safe_open
    from safetensors.torch import load_file

    found = find_trained(trained.home, trained.trial)
    state = found.method().state_dict()
    loaded = load_file(exported / "model.safetensors")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    with safe_open(exported / "model.safetensors", "pt") as file:
        assert file.metadata()["trial"] == trained.trial


def test_the_card_has_what_a_stranger_needs_and_its_program_runs(trained, exported, tmp_path, monkeypatch):
    card = (exported / "README.md").read_text()
    result = ResultStore(results_folder(trained.home)).load([trained.trial])[0]
    for word in (
        "licence of the data",
        "masks:2p",
        "2 µm per pixel",
        "95 % interval",
        "On the test part",
        trained.trial,
    ):
        assert word in card, word
    for name in trained.store.class_map.names:
        assert f"| {_text(name)} |" in card
    assert f"| minutes of annotation | {result.minutes:.0f} (" in card
    program = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert len(program.splitlines()) == 8
    (image,) = sample_tiles(trained.store, 1)
    Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "tile.png")
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    with torch.inference_mode():
        expected = (
            find_trained(trained.home, trained.trial).method().predict(torch.from_numpy(image)[None]).argmax(1)[0]
        )
    assert (np.asarray(Image.open("labels.png")) != expected.numpy()).mean() <= 1e-4


def test_names_from_data_are_plain_text_in_the_card():
    assert _text("<b>a|b</b>\n[x](y)") == "&lt;b>a\\|b&lt;/b> \\[x\\](y)"


def test_a_graph_with_other_labels_is_refused_and_nothing_is_left(trained, tmp_path, monkeypatch):
    class Wrong(OnnxModel):
        def predict(self, images):
            return super().predict(images).flip(1)

    monkeypatch.setattr(exporting, "OnnxModel", Wrong)
    with pytest.raises(DataError, match=r"gives another label to \d+\.\d+% of the pixels[^\n]*leave out --onnx"):
        export_model(find_trained(trained.home, trained.trial), tmp_path / "model", with_onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_and_an_unfinished_trial_are_one_line(trained, exported, tmp_path):
    def refused(*arguments):
        done = CliRunner().invoke(cli, ["trial", "export", *arguments, "--home", str(trained.home)])
        assert isinstance(done.exception, TissueBenchError), done.output
        assert "\n" not in str(done.exception)
        return str(done.exception)

    assert "use --overwrite" in refused(trained.trial, "--to", str(exported))
    (tmp_path / "mine").mkdir()
    assert "choose another folder with --to" in refused(trained.trial, "--to", str(tmp_path / "mine"), "--overwrite")
    assert "only finished trials" in refused(trained.waiting, "--to", str(tmp_path / "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_method_without_an_onnx_form_is_one_line(tmp_path, monkeypatch):
    method = make_method("supervised").eval()
    monkeypatch.setattr(type(method), "predict", lambda self, images: images.float() if images.sum() > 3 else images)
    with pytest.raises(ConfigError, match="method 'supervised' does something that has no ONNX form"):
        write_onnx(method, 64, {}, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "settings", "is_free"),
    [
        ("multilayer_pseudo", EncoderMode.FINETUNE, {"gate": 0.1}, False),
        ("mean_teacher", EncoderMode.FINETUNE, {}, True),
        ("anatomical_contrast", EncoderMode.FINETUNE, {}, True),
        ("diffusion", EncoderMode.FINETUNE, {}, True),
        ("complementary", EncoderMode.FROZEN, {}, False),
    ],
)
def test_methods_with_gates_and_teachers_keep_their_labels(tmp_path, name, mode, settings, is_free):
    method = make_method(name, encoder_mode=mode, settings=settings).eval()
    assert write_onnx(method, 64, {}, tmp_path / "model.onnx") is is_free
    images = [np.random.default_rng(i).integers(0, 256, (3, 64, 64), dtype=np.uint8) for i in range(5)]
    differing, largest = share_of_differing_labels(method, OnnxModel(tmp_path / "model.onnx"), images)
    assert differing <= 1e-4 and largest < 1e-4
