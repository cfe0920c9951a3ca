"""TissueBench: which weak-supervision strategy is worth a pathologist's time?"""

from importlib.metadata import version

if __name__ != "tissuebench":
    raise ImportError("this folder is the package 'tissuebench'; import it under that name")

__version__ = version("tissuebench")
