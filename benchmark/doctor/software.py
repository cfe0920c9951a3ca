"""Software: Python, this suite, the packages that it needs and those that it can use."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import tissuebench
from tissuebench.doctor.finding import Finding, fix, note, ok
from tissuebench.doctor.subject import Subject
from tissuebench.runtime.environment import package_versions, revision

_OURS = "tissuebench"
_FOR_DEVELOPERS = frozenset({"dev", "docs", "check"})


def python(_: Path) -> Iterator[Finding]:
    """Check the version of Python."""
    found = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    allowed = metadata(_OURS)["Requires-Python"] or ""
    if SpecifierSet(allowed).contains(platform.python_version(), prereleases=True):
        yield ok("Python", found)
    else:
        yield fix("Python", found, f"install TissueBench with a Python {allowed}: make PYTHON=python3.11 setup")


def suite(_: Path) -> Iterator[Finding]:
    """Tell version, revision and place of the suite."""
    place = Path(tissuebench.__file__).parent
    kind = "in the environment" if place.is_relative_to(sys.prefix) else f"in {place}"
    yield ok("TissueBench", f"{version(_OURS)}, revision {revision() or 'not known: no checkout'}, {kind}")


def packages(_: Path) -> Iterator[Finding]:
    """Check what is required against what is installed."""
    wanted = _required("")
    wrong = [(each, problem) for each in wanted if (problem := _problem(each))]
    main = ", ".join(f"{name} {found}" for name, found in package_versions().items() if found and name != _OURS)
    if not wrong:
        yield ok("packages", f"all {len(wanted)} as required: {main}")
        return
    yield ok("packages", f"{len(wanted) - len(wrong)} of {len(wanted)} as required: {main}")
    for each, problem in wrong:
        yield fix(each.name, problem, f"pip install '{_typed(each)}'")


def optional_packages(_: Path) -> Iterator[Finding]:
    """Tell which extras are installed, and check the versions of those that are."""
    whole, absent = [], []
    for extra in sorted(set(metadata(_OURS).get_all("Provides-Extra") or ()) - _FOR_DEVELOPERS):
        wrong = [(each, problem) for each in _required(extra) if (problem := _problem(each))]
        if not wrong:
            whole.append(extra)
        elif all(_installed(each) is None for each in _required(extra)):
            absent.append(extra)
        else:
            said = "; ".join(f"{each.name} {problem}" for each, problem in wrong)
            yield note(f"tissuebench[{extra}]", said, f"pip install 'tissuebench[{extra}]'")
    missing = f"not installed: {', '.join(absent)} (pip install 'tissuebench[{absent[0]}]')" if absent else ""
    yield ok("optional packages", "; ".join(filter(None, (", ".join(whole), missing))))


def openslide(_: Path) -> Iterator[Finding]:
    """Load OpenSlide with its library, which is a package of its own."""
    if importlib.util.find_spec("openslide") is None:
        yield ok("OpenSlide", "not installed; needed for NDPI, MRXS, SCN: pip install 'tissuebench[openslide]'")
        return
    module = importlib.import_module("openslide")
    yield ok("OpenSlide", f"{module.__library_version__}, openslide-python {module.__version__}")


def slurm(_: Path) -> Iterator[Finding]:
    """Check that jobs can be submitted where there is SLURM."""
    job = ", inside a job" if "SLURM_JOB_ID" in os.environ else ""
    if shutil.which("sbatch") is None:
        yield ok("SLURM", f"not here: no sbatch{job}")
    elif importlib.util.find_spec("submitit") is None:
        yield note("SLURM", f"here{job}, but submitit is not", "for --executor slurm: pip install 'tissuebench[slurm]'")
    else:
        yield ok("SLURM", f"here{job}, submitit {version('submitit')}")


def ray(_: Path) -> Iterator[Finding]:
    """Tell whether Ray can be imported."""
    there = importlib.util.find_spec("ray") is not None
    yield ok("Ray", version("ray") if there else "not installed; for --executor ray: pip install 'tissuebench[ray]'")


def _required(extra: str) -> list[Requirement]:
    """Return what an extra requires here beyond the suite itself, or, for "", what the suite requires."""
    found = [Requirement(line) for line in requires(_OURS) or ()]
    basic = [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not extra:
        return basic
    return [each for each in found if each not in basic and each.marker and each.marker.evaluate({"extra": extra})]


def _installed(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return None


def _problem(requirement: Requirement) -> str:
    found = _installed(requirement)
    if found is None:
        return "not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{found} is installed, {requirement.specifier} is required"


def _typed(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


SUBJECT = Subject(
    {
        "Python": python,
        "TissueBench": suite,
        "packages": packages,
        "optional packages": optional_packages,
        "OpenSlide": openslide,
        "SLURM": slurm,
        "Ray": ray,
    },
    seconds=8,
    advice="install TissueBench again: make setup, or pip install --force-reinstall",
)
