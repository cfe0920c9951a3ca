"""The base of all settings: those of plans, networks, trainings and methods."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tissuebench.common.hashing import Json


class Settings(BaseModel):
    """Base of all settings: frozen, and a key that does not exist is an error that names it.

    A setting that is renamed keeps its first name as ``serialization_alias``, and takes both names from users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def stored(self) -> dict[str, Json]:
        """Return JSON values under the names that stored results have, which no renaming changes."""
        values: dict[str, Json] = self.model_dump(mode="json", by_alias=True)
        return values
