"""``data init`` from the command line, and a small cohort from its files to budgets that fit."""

from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

from tests.datasets.ingest.folders import describe, square, tissue_on_glass, write_geojson, write_manifest, write_tiff
from tissuebench.cli.main import cli
from tissuebench.datasets.catalog import recipe_names


def test_from_a_folder_to_a_store_with_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "klinik"
    root.mkdir()
    for number in range(8):
        write_tiff(root / f"Fall {number}.tif", tissue_on_glass(number))
        features = square("Stroma", 70, 70, 200, 200), square("Tumor", 90, 90, 150, 150)
        write_geojson(root / f"Fall {number}.geojson", *features)
    done = CliRunner().invoke(cli, ["data", "init", "klinik"])
    assert done.exit_code == 0, done.stderr
    assert "klinik/manifest.csv: 8 slides, 8 with annotations" in done.stdout
    assert "klinik/dataset.yaml: classes Stroma, Tumor" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("then tissuebench data ingest folder --data-root klinik")
    typed = done.stderr.splitlines()[-1].rpartition("then tissuebench ")[2].split()
    done = CliRunner().invoke(cli, typed)
    assert done.exit_code == 0, done.stderr
    # 8 patients: 5 for training, so that the default plan's masks:6p does not fit
    assert "run --method mean_teacher --budget masks:3p,masks:5p,minutes:60 --dataset klinik" in done.stderr
    listed = CliRunner().invoke(cli, ["data", "list"])
    assert f"klinik         your own slides, from {root}" in listed.stdout
    assert "klinik" not in recipe_names()


def test_an_ingest_imports_no_torch(tmp_path):
    for number in range(3):
        write_tiff(tmp_path / f"{number}.tif", tissue_on_glass(number))
    describe(tmp_path)
    rows = [{"slide_id": f"S{n}", "patient_id": f"P{n}", "image": f"{n}.tif"} for n in range(3)]
    write_manifest(tmp_path, *rows)
    typed = ["data", "ingest", "folder", "--data-root", str(tmp_path), "--home", str(tmp_path / "home")]
    program = f"""
import sys
from tissuebench.cli.main import cli
cli.main({typed!r}, standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 slides, 0 left out" in done.stdout
