"""The base of all settings: those of plans, networks, trainings and methods."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: frozen, and a key that does not exist is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
