"""Trial results: records, statistics, tables and reports. Never imports torch."""

if __name__ != "tissuebench.results":
    raise ImportError(
        "this folder is the package 'tissuebench.results'; import it under that name "
        "(a bare 'import results' from the repository root would shadow other packages)"
    )
