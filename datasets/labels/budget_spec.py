"""Budget specifications: their spelling, and the division of minutes between kinds of labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tissuebench.datasets.types import Supervision
from tissuebench.errors import ConfigError

_KIND, _NUMBER = r"(?P<kind>masks|tags)", r"[0-9]{1,7}(?:\.[0-9]{1,6})?"
_SPELLINGS = (
    re.compile(_KIND + r":(?P<patients>[0-9]{1,7})p"),
    re.compile(_KIND + rf":(?P<share>{_NUMBER})%"),
    re.compile(_KIND + r":(?P<all>all)"),
    re.compile(rf"minutes:(?P<minutes>{_NUMBER})"),
)
_HELP = (
    "write 'masks:3p' (patients), 'masks:25%' (a share) or 'masks:all', the same with 'tags:', "
    "or 'minutes:60' (of an annotator's time)"
)


@dataclass(frozen=True, slots=True)
class BudgetSpec:
    """Budget specification from a plan, with exactly one of ``patients``, ``share`` and ``minutes``.

    Attributes:
        text: as typed; contains only letters, digits and ``:.%``.
        kind: ``masks`` or ``tags``; None for minutes, which the method divides between kinds.
        patients: number of patients.
        share: share of the patients that have such labels, 1 for all.
        minutes: minutes of an annotator's time.
    """

    text: str
    kind: Supervision | None = None
    patients: int | None = None
    share: float | None = None
    minutes: float | None = None

    @property
    def file_name(self) -> str:
        """Specification as part of a file name; different specifications have different names."""
        return self.text.replace(":", "-").replace("%", "pct")

    def patients_of(self, n_patients: int) -> int:
        """Return the number of patients to buy out of ``n_patients`` that have such labels; a share is rounded up.

        Raises:
            ConfigError: none, or more than available.
        """
        if self.patients is not None:
            wanted = self.patients
        elif self.share is not None:
            wanted = math.ceil(self.share * n_patients - 1e-9)
        else:
            raise ValueError(f"{self.text!r} counts minutes, not patients")
        if not 1 <= wanted <= n_patients:
            raise ConfigError(
                f"budget {self.text!r} asks for {wanted} patients, "
                f"the training part has {n_patients} patients with {self.kind}"
            )
        return wanted


def parse_spec(text: str) -> BudgetSpec:
    """Parse a specification: ``masks:3p``, ``masks:25%``, ``masks:all``, the same with ``tags:``, or ``minutes:60``.

    Raises:
        ConfigError: invalid specification; the message lists the valid forms.

    Examples:
        >>> from tissuebench.datasets.labels.budget_spec import parse_spec
        >>> parse_spec("masks:25%").patients_of(n_patients=10)
        3
    """
    match = next((found for form in _SPELLINGS if (found := form.fullmatch(text))), None)
    if match is None:
        raise ConfigError(f"budget {text!r}: {_HELP}")
    given = match.groupdict()
    if "minutes" in given:
        return BudgetSpec(text, minutes=float(given["minutes"]))
    kind = Supervision(given["kind"])
    if "patients" in given:
        return BudgetSpec(text, kind, patients=int(given["patients"]))
    return BudgetSpec(text, kind, share=float(given["share"]) / 100 if "share" in given else 1.0)


def fitting_budgets(specs: Sequence[str], n_patients: Mapping[Supervision, int]) -> list[str]:
    """Return budgets that can be bought in place of these, at least one per kind of label.

    Those that fit stay; each of the others becomes all patients there are. Where none of a kind fits, half of the
    patients are offered as well.

    Args:
        specs: valid specifications.
        n_patients: number of patients that have such labels, by kind; specifications of other kinds are left out.

    Examples:
        >>> from tissuebench.datasets.labels.budget_spec import fitting_budgets
        >>> from tissuebench.datasets.types import Supervision
        >>> fitting_budgets(["masks:3p", "masks:6p", "minutes:60"], {Supervision.MASKS: 2})
        ['masks:1p', 'masks:2p', 'minutes:60']
    """
    fitting: list[str] = []
    parsed = [parse_spec(spec) for spec in specs]
    of_a_kind_that_fits = {spec.kind for spec in parsed if spec.kind and _fits(spec, n_patients.get(spec.kind, 0))}
    for spec in parsed:
        there = n_patients.get(spec.kind, 0) if spec.kind else 0
        if spec.kind is None or _fits(spec, there):
            fitting.append(spec.text)
        elif there:
            counts = [there] if spec.kind in of_a_kind_that_fits or there == 1 else [there // 2, there]
            fitting += [f"{spec.kind}:{count}p" for count in counts]
    return list(dict.fromkeys(fitting))


def _fits(spec: BudgetSpec, n_patients: int) -> bool:
    try:
        return spec.patients_of(n_patients) > 0
    except ConfigError:
        return False


@dataclass(frozen=True, slots=True)
class Spending:
    """Division of a budget in minutes: diagnoses first, the remainder in shares.

    Attributes:
        masks, tags: shares of what the diagnoses leave; they add up to 1, or both are 0.
        diagnoses: whether the diagnosis of every training patient is paid before anything else.

    Raises:
        ConfigError: the shares do not add up.
    """

    masks: float = 1.0
    tags: float = 0.0
    diagnoses: bool = False

    def __post_init__(self) -> None:
        total = self.masks + self.tags
        if not (min(self.masks, self.tags) >= 0 and (math.isclose(total, 1, rel_tol=0, abs_tol=1e-9) or total == 0)):
            raise ConfigError(
                f"shares of the minutes are masks {self.masks:g} and tags {self.tags:g}; "
                "they must not be negative and add up to 1"
            )

    @property
    def shares(self) -> Mapping[Supervision, float]:
        """Kinds of labels with a positive share (to nine decimal places), the more expensive one first."""
        shares = {Supervision.MASKS: self.masks, Supervision.TAGS: self.tags}
        return {kind: share for kind, share in shares.items() if round(share, 9) > 0}

    def __str__(self) -> str:
        parts = [f"{kind}{'' if share == 1 else repr(share)}" for kind, share in self.shares.items()]
        return "-".join([*parts, *(["diagnosis"] if self.diagnoses else [])]) or "nothing"
