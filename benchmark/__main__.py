"""``python -m tissuebench`` is the command ``tissuebench``."""

from tissuebench.cli.main import main

main()
