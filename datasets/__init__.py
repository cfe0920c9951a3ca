"""What methods are compared on: slides, tiles, labels, and the door to them."""

if __name__ != "tissuebench.datasets":
    raise ImportError(
        "this folder is the package 'tissuebench.datasets'; import it under that name "
        "(a bare 'import datasets' from the repository root would shadow other packages)"
    )
