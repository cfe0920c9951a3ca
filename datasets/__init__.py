"""Datasets that methods are compared on: slides, tiles and labels, and the label view that guards them."""

if __name__ != "tissuebench.datasets":
    raise ImportError(
        "this folder is the package 'tissuebench.datasets'; import it under that name "
        "(a bare 'import datasets' from the repository root would shadow other packages)"
    )
