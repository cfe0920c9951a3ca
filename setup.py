"""All metadata is in ``pyproject.toml``; this stops an installation that would be empty."""

import sys
from pathlib import Path

from setuptools import setup

if not Path(__file__).with_name("src").joinpath("tissuebench", "methods").is_dir():
    sys.exit(
        "src/tissuebench is a text file here, not a link: get the code with 'git clone' "
        "(on Windows: git clone -c core.symlinks=true), not as a zip"
    )
setup()
