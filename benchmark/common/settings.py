"""Base class of all settings: those of plans, networks, training and methods."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from tissuebench.common.hashing import Json


@dataclass(frozen=True, slots=True)
class Later:
    """Marks a setting that came after results were stored: ``before`` is the value that these were made with.

    At this value it is not part of an identity, so that earlier results keep theirs.

    Examples:
        >>> class Config(Settings):
        ...     gate_on: Annotated[str, Later("probabilities")] = "probabilities"
    """

    before: object


class Settings(BaseModel):
    """Base class of all settings: frozen, and an unknown key is an error that names it.

    A renamed setting keeps its original name as ``serialization_alias`` and accepts both names from users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def stored(self) -> dict[str, Json]:
        """Return JSON values under the names used in stored results, which no renaming changes."""
        values: dict[str, Json] = self.model_dump(mode="json", by_alias=True)
        return values
