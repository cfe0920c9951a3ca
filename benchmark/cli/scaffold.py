"""Beginning a method of one's own, and holding it to the contract."""

from __future__ import annotations

import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tissuebench.errors import ConfigError
from tissuebench.methods.api.registry import all_methods, find_method

_TEMPLATE = '''"""{title}: say here what it does, and cite the paper."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from tissuebench.methods import api


class {class_name}Settings(api.Settings):
    """Settings, all with defaults; each becomes ``--set methods.{name}.KEY=VALUE``.

    Attributes:
        weight: of the loss below.
    """

    weight: float = Field(1.0, ge=0)


@api.register
class {class_name}(api.Method[{class_name}Settings]):
    """Say in one line what makes it different from ``supervised``."""

    name = "{name}"
    summary = "one line for 'tissuebench method list'"
    consumes = frozenset({{api.Supervision.MASKS}})

    def streams(self) -> Mapping[str, api.Stream]:
        """Tiles of one step; add an entry for tiles with other labels."""
        return {{api.ANNOTATED: self.annotated_stream()}}

    def training_step(self, batch: api.TrainingBatch, batch_idx: int) -> Tensor:
        """Loss of one step."""
        annotated = batch[api.ANNOTATED]
        return self.config.weight * api.masked_cross_entropy(self.network(annotated.inputs), annotated.masks)
'''

_CHECK = """from tissuebench.methods.api.contract import MethodContract


class TestContract(MethodContract):
    method = {name!r}
"""


def write_method(name: str, folder: Path) -> Path:
    """Write a new method's file from the template; the registry finds it by itself.

    Raises:
        ConfigError: the name is unusable or taken, or the folder does not exist.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,40}", name):
        raise ConfigError(f"method name {name!r}: use lower-case letters, digits and '_', beginning with a letter")
    if name in all_methods() or (folder / f"{name}.py").exists():
        raise ConfigError(f"method {name!r} already exists")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; run this in the repository, or say --folder")
    path = folder / f"{name}.py"
    title = name.replace("_", " ").capitalize()
    path.write_text(_TEMPLATE.format(name=name, title=title, class_name=title.title().replace(" ", "")))
    return path


def check_method(name: str) -> int:
    """Run the contract tests on a method; 0 if all hold, 1 otherwise.

    Raises:
        ConfigError: unknown method, or pytest is not installed.
    """
    find_method(name)
    if find_spec("pytest") is None:
        raise ConfigError("the contract tests need pytest: pip install 'tissuebench[check]'")
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "test_contract.py"
        test.write_text(_CHECK.format(name=name))
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        return int(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", folder, str(test)]) != 0)
