"""The house: four folders linked into one import package, guards against shadowing, a command that answers at once."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mypy import modulefinder
from mypy.options import Options

from tissuebench.cli.scaffold import write_method
from tissuebench.methods.api import all_methods

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("benchmark", "methods", "datasets", "results")


def run(*command, cwd=None, **environment):
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


def packages_on_disk():
    names = {"benchmark": "tissuebench"}
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            yield ".".join((names.get(parts[0], f"tissuebench.{parts[0]}"), *parts[1:]))


def test_one_package_is_made_of_links_that_every_tool_follows():
    assert (ROOT / "src" / "tissuebench").readlink() == Path("../benchmark")
    for folder in FOLDERS[1:]:
        assert (ROOT / "benchmark" / folder).readlink() == Path("..") / folder
    code = "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('tissuebench', 'tissuebench.methods')))"
    found = run(sys.executable, "-P", "-c", code).stdout.split()
    assert found == [str(ROOT / "src" / "tissuebench" / name) for name in ("__init__.py", "methods/__init__.py")]


@pytest.mark.parametrize("how", ["make", "pip"])
def test_a_zip_whose_links_became_text_files_says_so_in_one_line(tmp_path, how):
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "tissuebench").write_text("../benchmark")
    if how == "make":
        tried = run("make", "--no-print-directory", "setup", f"PYTHON={sys.executable}", cwd=tmp_path)
    else:
        tried = run(sys.executable, "setup.py", "--version", cwd=tmp_path)
    assert tried.returncode != 0
    assert "src/tissuebench is a text file here, not a link: get the code with" in tried.stdout + tried.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_folder_with_code_is_a_package():
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


@pytest.mark.parametrize(("folder", "at_most"), [("benchmark", 6), ("methods", 8), ("datasets", 6), ("results", 3)])
def test_rooms_hold_the_files_not_the_hall(folder, at_most):
    loose = {file.stem for file in (ROOT / folder).glob("*.py")}
    assert len(loose) <= at_most, loose
    if folder == "methods":
        assert loose - {"__init__"} <= {kind.__module__.rpartition(".")[2] for kind in all_methods().values()}


def test_no_file_is_long():
    """At 400 lines there are two ideas in a file."""
    files = [file for folder in (*FOLDERS, "tests") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 400
    assert not [file for file in files if len(file.read_text().splitlines()) > 400]


def test_docstrings_open_with_what_a_thing_is_or_does():
    riddle = re.compile(r"(What|Where|Who|Whose|Which|How|Why|When)\b")
    found = []
    for file in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            if documented and riddle.match(ast.get_docstring(node) or ""):
                found.append(f"{file.relative_to(ROOT)}: {getattr(node, 'name', 'module')}")
    assert not found


def test_a_static_resolver_follows_the_door_of_method_authors_into_its_folder():
    """Without plug-ins or search paths of its own: through the path file of the editable install."""
    python, site = modulefinder.get_search_dirs(sys.executable)
    paths = modulefinder.SearchPaths((), tuple(python), tuple(site), ())
    found = modulefinder.FindModuleCache(paths, None, Options()).find_module("tissuebench.methods.api")
    assert isinstance(found, str), found
    assert Path(found).resolve() == ROOT / "methods" / "api" / "__init__.py"


def test_a_new_method_is_short_has_one_import_line_and_type_checks(tmp_path):
    written = write_method("mine", tmp_path)
    source = written.read_text()
    assert len(source.splitlines()) <= 40
    assert re.findall(r"^(?:from|import) tissuebench.*", source, re.MULTILINE) == [
        "from tissuebench.methods import api"
    ]
    assert "assert" not in source
    checked = run(
        sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict", str(written), cwd=ROOT
    )
    assert checked.returncode == 0, checked.stdout
    written.write_text(source.replace("annotated.masks)", "annotated.tags)"))
    checked = run(sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(written), cwd=ROOT)
    assert checked.returncode == 1
    assert "Tensor | None" in checked.stdout  # a stream of masks has no tags


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_bare_import_of_a_folder_is_refused(folder):
    result = run(sys.executable, "-c", f"import {folder}", cwd=ROOT)
    assert result.returncode != 0
    assert "tissuebench" in result.stderr.splitlines()[-1]


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tissuebench', '--help']\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'lightning', 'pandas', 'numpy', 'zarr', 'wandb', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = run(sys.executable, "-P", "-c", code)
    assert result.returncode == 0, result.stderr
    assert "tissuebench run" in result.stdout


def test_table_path_does_not_import_torch(tmp_path):
    code = (
        "import sys\n"
        "sys.argv = ['tissuebench', 'results', 'table', '--home', sys.argv[1]]\n"
        "from tissuebench.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    result = run(sys.executable, "-P", "-c", code, str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "no results yet" in result.stdout


PLUGIN = """
from typing import ClassVar
from tissuebench.datasets.types import Supervision
from tissuebench.methods.api.method import ANNOTATED, Method, masked_cross_entropy


class Halved(Method):
    name = "halved"
    summary = "half the cross-entropy"
    consumes: ClassVar = frozenset({Supervision.MASKS})

    def streams(self):
        return {ANNOTATED: self.annotated_stream()}

    def training_step(self, batch, batch_idx):
        tiles = batch[ANNOTATED]
        return 0.5 * masked_cross_entropy(self.network(tiles.inputs), tiles.masks)
"""


@pytest.fixture
def plugin(tmp_path):
    """A package of somebody else's, installed for the processes that get its folder on PYTHONPATH."""
    folder = tmp_path / "site"
    info = folder / "halved_pkg-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "halved_pkg.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halved-pkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tissuebench.methods]\nhalved = halved_pkg:Halved\n")
    return folder


@pytest.mark.slow
def test_a_method_of_another_package_is_listed_checked_and_run(plugin, tiny_source, tmp_path):
    environment = {"PYTHONPATH": str(plugin), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-P", "-m", "tissuebench")
    listed = run(*command, "method", "list", **environment)
    assert "halved" in listed.stdout
    assert "(halved_pkg)" in listed.stdout
    checked = run(*command, "method", "check", "halved", **environment)
    assert checked.returncode == 0, checked.stdout
    assert "passed" in checked.stdout
    home = tmp_path / "home"
    settings = ("network.encoder=resnet18", "network.weights=none", "network.encoder_mode=finetune", "training.steps=2")
    done = run(
        *command, "run", "--method", "halved", "--dataset", "folder", "--data-root", str(tiny_source),
        "--home", str(home), "--budget", "masks:2p", "--seed", "0", *(f"--set={setting}" for setting in settings),
        **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "halved" in done.stdout
    assert "supervised" in done.stdout


def test_a_broken_entry_point_is_one_line(plugin):
    (plugin / "halved_pkg.py").write_text("raise RuntimeError('not today')")
    result = run(sys.executable, "-P", "-m", "tissuebench", "method", "list", PYTHONPATH=str(plugin))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "halved_pkg:Halved" in result.stderr


@pytest.fixture
def own_copy(tmp_path):
    """The four folders as a package of their own, so that a test may add a file."""
    return Path(shutil.copytree(ROOT / "src" / "tissuebench", tmp_path / "copy" / "tissuebench"))


def test_a_method_in_the_tree_is_one_new_file(own_copy):
    environment = {"PYTHONPATH": str(own_copy.parent), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-P", "-m", "tissuebench")
    before = {path: path.read_bytes() for path in own_copy.rglob("*.py")}
    written = run(*command, "method", "new", "mine", "--folder", str(own_copy / "methods"), **environment)
    assert written.returncode == 0, written.stderr
    after = {path: path.read_bytes() for path in own_copy.rglob("*.py")}
    assert {path.name for path in after.keys() - before.keys()} == {"mine.py"}
    assert {path: after[path] for path in before} == before
    assert "mine" in run(*command, "method", "list", **environment).stdout
    checked = run(*command, "method", "check", "mine", **environment)
    assert checked.returncode == 0, checked.stdout
    again = run(*command, "method", "new", "mine", "--folder", str(own_copy / "methods"), **environment)
    assert again.returncode == 2


def test_a_method_that_breaks_the_contract_is_told(own_copy):
    environment = {"PYTHONPATH": str(own_copy.parent), "OMP_NUM_THREADS": "1"}
    source = (own_copy / "methods" / "supervised.py").read_text()
    broken = source.replace('name = "supervised"', 'name = "broken"').replace('name = "full"', 'name = "broken_too"')
    broken = broken.replace("return masked_cross_entropy(", "return 0.0 * masked_cross_entropy(")
    (own_copy / "methods" / "broken.py").write_text(broken)
    checked = run(sys.executable, "-P", "-m", "tissuebench", "method", "check", "broken", **environment)
    assert checked.returncode == 1
    assert "test_loss_is_a_finite_scalar_whose_gradient_reaches_the_network" in checked.stdout


def test_the_wheel_holds_everything(tmp_path):
    """Built, unpacked into a folder of its own and used from another one, without the repository in sight."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "data", "runs", "build", "*.egg-info", ".*_cache")
    )
    wheel = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), ".",
        cwd=source,
    )  # fmt: skip
    assert wheel.returncode == 0, wheel.stderr
    (built,) = tmp_path.glob("tissuebench-*.whl")
    target = tmp_path / "target"
    shutil.unpack_archive(built, target, "zip")
    assert {path.name for path in (target / "tissuebench").iterdir()} >= {"methods", "datasets", "results", "plans"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = "import tissuebench.plans.schema as c; print(c.__file__, c.load_plan('smoke').training.steps)"
    shown = run(sys.executable, "-P", "-c", code, cwd=elsewhere, PYTHONPATH=str(target))
    assert shown.returncode == 0, shown.stderr
    assert str(target) in shown.stdout
    missing = set(packages_on_disk()) - {
        ".".join(init.parent.relative_to(target).parts) for init in target.rglob("__init__.py")
    }
    assert not missing


def test_a_source_says_no_path_of_a_machine():
    needles = ("/" + "work/", "/" + "root/", "/" + "home/")
    for folder in (*FOLDERS, "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            assert not any(needle in text for needle in needles), file


def test_time_of_help_is_printed_not_judged(capsys):
    started = time.perf_counter()
    assert run(sys.executable, "-P", "-m", "tissuebench", "--help").returncode == 0
    with capsys.disabled():
        print(f" [tissuebench --help: {time.perf_counter() - started:.2f} s]", end="")
