"""Base class of all settings: those of plans, networks, training and methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, model_validator

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

    A renamed setting keeps its original name as ``serialization_alias`` and accepts both names from users. A setting
    that became a key of another one is still accepted by itself, see ``Own.formerly``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _with_former_names(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        settings = dict(given)
        for name, field in cls.model_fields.items():
            for former, key in [(b, a) for mark in field.metadata for a, b in getattr(mark, "formerly", {}).items()]:
                if former not in settings:
                    continue
                own = dict(settings.get(name, {}))
                if key in own:
                    raise ValueError(f"{former} is {name}.{key}: give one of them")
                settings[name] = own | {key: settings.pop(former)}
        return settings

    def stored(self) -> dict[str, Json]:
        """Return JSON values under the names used in stored results, which no renaming changes."""
        values: dict[str, Json] = self.model_dump(mode="json", by_alias=True)
        return values
