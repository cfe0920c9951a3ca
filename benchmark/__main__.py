"""Entry point of ``python -m tissuebench``, equivalent to the command ``tissuebench``."""

from tissuebench.cli.main import main

main()
