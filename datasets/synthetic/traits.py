"""Variation between patients: tissue traits that are unrelated to the diagnosis, and the two kinds of tumour.

The nuisance traits vary widely on purpose: nuclear size, density and chromatin differ more between two patients than
between the two kinds of tumour, so a whole cohort separates the kinds, but a few annotated patients do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tissuebench.datasets.synthetic.cohort import Diagnosis


@dataclass(frozen=True)
class Traits:
    """Traits of a patient's tissue that do not depend on the kind of tumour. Factors are 1 in the average patient."""

    nuclear_size: float
    nuclear_density: float
    pleomorphism: float
    chromatin: float
    basophilia: float
    inflammation: float
    fibrosis: float
    clefts: float
    gland_radius_um: float
    epithelium_height_um: float


@dataclass(frozen=True)
class TumourTraits:
    """Traits of a patient's tumour.

    Attributes:
        major_um: length of the average nucleus; ``minor_um`` its width.
        darkness: haematoxylin of the average nucleus.
        nucleoli: darkness of the nucleoli as a fraction of the nucleus.
        spacing_um: minimum distance between nuclei.
        lumen_share: share of the possible positions that have a lumen.
        lumen_um: radius of the average lumen.
        cord_anisotropy: length over width of the tumour's cords; 1 gives round nests.
        cord_um: width of the average nest or cord.
        polarity: 0 to 1, the degree to which nuclei point across their cord or away from their lumen.
    """

    major_um: float
    minor_um: float
    darkness: float
    nucleoli: float
    spacing_um: float
    lumen_share: float
    lumen_um: float
    cord_anisotropy: float
    cord_um: float
    polarity: float


def draw_traits(rng: np.random.Generator) -> Traits:
    """Draw the traits of a patient, independent of the diagnosis."""

    def factor(spread: float) -> float:
        return float(np.exp(np.clip(rng.normal(), -2.0, 2.0) * spread))

    return Traits(
        nuclear_size=factor(0.10),
        nuclear_density=factor(0.13),
        pleomorphism=factor(0.30),
        chromatin=factor(0.30),
        basophilia=factor(0.35),
        inflammation=factor(0.45),
        fibrosis=factor(0.25),
        clefts=factor(0.50),
        gland_radius_um=float(rng.uniform(36, 50)),
        epithelium_height_um=float(rng.uniform(17, 23)),
    )


def draw_tumour(rng: np.random.Generator, diagnosis: Diagnosis, traits: Traits) -> TumourTraits:
    """Draw a patient's tumour; the means depend on the diagnosis, but the distributions of the two kinds overlap."""
    a = diagnosis is Diagnosis.A
    noise: list[float] = np.clip(rng.normal(size=8), -2.0, 2.0).tolist()
    size_um = (11.3 if a else 10.0) * traits.nuclear_size
    elongation = max(1.03, (1.14 if a else 1.56) + 0.08 * noise[0])
    return TumourTraits(
        major_um=size_um * elongation**0.5,
        minor_um=size_um / elongation**0.5,
        darkness=(0.74 if a else 0.86) * float(np.exp(0.08 * noise[7])),
        nucleoli=max(0.0, (0.90 if a else 0.28) + 0.20 * noise[1]),
        spacing_um=(9.6 if a else 9.1) * traits.nuclear_size**0.6 / traits.nuclear_density,
        lumen_share=float(np.clip((0.66 if a else 0.11) + 0.09 * noise[2], 0.03, 0.95)),
        lumen_um=7.0 * float(np.exp(0.15 * noise[3])),
        cord_anisotropy=max(1.0, (1.3 if a else 3.4) + 0.45 * noise[4]),
        cord_um=62.0 * float(np.exp(0.18 * noise[5])),
        polarity=float(np.clip(0.55 + 0.2 * noise[6], 0.1, 0.9)),
    )
