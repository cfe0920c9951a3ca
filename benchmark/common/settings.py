"""Base class of all settings: those of plans, networks, training and methods."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tissuebench.common.hashing import Json


class Settings(BaseModel):
    """Base class of all settings: frozen, and an unknown key is an error that names it.

    A renamed setting keeps its original name as ``serialization_alias`` and accepts both names from users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def stored(self) -> dict[str, Json]:
        """Return JSON values under the names used in stored results, which no renaming changes."""
        values: dict[str, Json] = self.model_dump(mode="json", by_alias=True)
        return values
