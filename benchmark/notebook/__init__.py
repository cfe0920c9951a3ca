"""Runs, datasets and trained methods for notebooks and scripts: what ``import tissuebench`` offers.

Each calls what the command line calls, and shows itself as a table or picture in a notebook.
"""

import warnings

# From libraries that import tqdm; nothing here draws a bar with it.
warnings.filterwarnings("ignore", "IProgress not found")
