"""What readers of the pages have: slides, a plan that takes seconds, a checkout of their own."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.clusters.ray import ray_cluster
from tests.clusters.slurm import slurm_cluster
from tests.docs.rules import Small
from tests.docs.workspace import Workspace, make_workspace
from tests.wandb_server import WandbServer
from tissuebench.datasets.synthetic import SyntheticConfig, write_synthetic

_PLAN = Path(__file__).parent / "tiny.yaml"


@pytest.fixture
def small(tiny_source) -> Small:
    return Small(str(tiny_source), str(_PLAN))


@pytest.fixture(scope="session")
def drawn_slides(tmp_path_factory) -> Path:
    """Small slides with outlines: tumour A, tumour B in turns."""
    folder = tmp_path_factory.mktemp("drawn")
    write_synthetic(folder, SyntheticConfig(n_train=6, n_val=2, n_test=4, size_px=256))
    return folder


@pytest.fixture
def workspace_of(tmp_path, tiny_source, drawn_slides) -> Callable[..., Workspace]:
    """Makes the checkout of a page's reader, with the folders that pages speak of."""

    def make(environment=None) -> Workspace:
        made = make_workspace(tmp_path / "checkout", environment or {})
        (made.root / "that").mkdir()
        (made.root / "that" / "folder").symlink_to(tiny_source)
        shutil.copy(next((drawn_slides / "slides").iterdir()), made.root / "that" / "slide.tif")
        pairs = made.root / "pairs"
        pairs.mkdir()
        for number in range(12):
            patient = f"P{number // 2}"
            shutil.copy(tiny_source / f"slide{number:02}.png", pairs / f"{patient}_{number}.png")
            with Image.open(tiny_source / f"slide{number:02}_mask.png") as mask:
                mask.point(lambda label: min(label, 1)).save(pairs / f"{patient}_{number}_mask.png")
        return made

    return make


@pytest.fixture
def bring_slides(drawn_slides) -> Callable[[Path], None]:
    """Puts slides where a manifest says that some are, as far as there are any left: a reader has slides."""

    def bring(manifest: Path) -> None:
        by_kind: dict[str, list[str]] = {}
        for row in csv.DictReader(io.StringIO((drawn_slides / "manifest.csv").read_text())):
            by_kind.setdefault(row["diagnosis"], []).append(row["slide_id"])
        for row in csv.DictReader(io.StringIO(manifest.read_text())):
            image = manifest.parent / row["image"]
            left = by_kind[row["diagnosis"]]
            if image.name.startswith("forgotten") or not left:
                continue
            slide = left.pop(0)
            image.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(drawn_slides / "slides" / f"{slide}.tif", image)
            if row["annotation"]:
                annotation = manifest.parent / row["annotation"]
                annotation.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(drawn_slides / "annotations" / f"{slide}.geojson", annotation)

    return bring


@pytest.fixture
def wandb_environment(tmp_path):
    """A W&B account with a server; in the end it has been sent something."""
    own = {"WANDB_CONFIG_DIR": str(tmp_path / "config"), "NETRC": str(tmp_path / "netrc"), "HOME": str(tmp_path)}
    with WandbServer() as server:
        yield {**own, "WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "feedc0de" * 5}
        assert any(run.job_type == "train" for run in server.runs.values())


@pytest.fixture(scope="module")
def slurm_of_the_pages():
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_of_the_pages():
    with ray_cluster({}) as cluster:
        yield cluster
