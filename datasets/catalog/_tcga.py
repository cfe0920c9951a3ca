"""Barcodes of The Cancer Genome Atlas."""

from __future__ import annotations

from tissuebench.errors import DataError


def tcga_patient(name: str, where: str) -> str:
    """Return the participant of a TCGA barcode: ``TCGA-18-5592`` for ``TCGA-18-5592-01Z-00-DX1``.

    Raises:
        DataError: it is not a TCGA barcode.
    """
    fields = name.split("-")
    if len(fields) < 4 or fields[0] != "TCGA" or not all(field.isalnum() and field.isascii() for field in fields[1:3]):
        raise DataError(f"{where}: its name does not begin with a TCGA barcode, as in TCGA-18-5592-01Z; restore it")
    return "-".join(fields[:3])
