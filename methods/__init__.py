"""Weak-supervision methods under comparison, one ``LightningModule`` per file."""

if __name__ != "tissuebench.methods":
    raise ImportError(
        "this folder is the package 'tissuebench.methods'; import it under that name "
        "(a bare 'import methods' from the repository root would shadow other packages)"
    )
