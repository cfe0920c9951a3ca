"""``python -m tissuebench`` is the command ``tissuebench``."""

from tissuebench.cli import main

main()
