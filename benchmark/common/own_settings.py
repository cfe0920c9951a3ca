"""Settings of one stage in place of the plan's: some keys of a settings class, the others inherited."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from tissuebench.common.hashing import Json
from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError, unknown_name

SettingsT = TypeVar("SettingsT", bound=Settings)


class Own:
    """Marks a setting that holds some keys of ``model``, in place of those that the plan shares.

    A user who sets one of these keys keeps the default values of the others, except for those that the key displaces
    (``model.displaces``): whoever sets ``steps`` does not keep ``epochs``.

    Args:
        model: settings class whose keys may be set.
        formerly: names under which earlier results hold keys that used to be settings by themselves.
        defaults: their default values; keys that are not among them are inherited from the plan.

    Examples:
        >>> class Config(Settings):
        ...     pretraining: Annotated[dict[str, Any], Own(TrainingSettings, epochs=100, batch_size=8)] = inherited()
        >>> Config(pretraining={"steps": 500}).pretraining
        {'batch_size': 8, 'steps': 500}
    """

    def __init__(
        self,
        model: type[Settings],
        formerly: Mapping[str, str] = MappingProxyType({}),
        **defaults: Any,  # noqa: ANN401 - values of any setting
    ) -> None:
        self.model, self.formerly, self.defaults = model, formerly, defaults

    def identity(self, name: str, own: Mapping[str, Json]) -> dict[str, Json]:
        """Return the part of an identity that the setting ``name`` with these keys stands for."""
        before = {former: own[key] for key, former in self.formerly.items() if key in own}
        rest = {key: value for key, value in own.items() if key not in self.formerly}
        return before | ({name: rest} if rest else {})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """Return a schema that fills in the defaults and checks key by key."""
        return core_schema.no_info_before_validator_function(self._completed, handler(source))

    def _completed(self, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        kept = _undisplaced(self.model, self.defaults, given)
        return {key: self._checked(key, value) for key, value in {**kept, **given}.items()}

    def _checked(self, key: str, value: object) -> object:
        field = self.model.model_fields.get(key)
        if field is None:
            raise ValueError(unknown_name("key", key, self.model.model_fields))
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])
        try:
            return adapter.dump_python(adapter.validate_python(value), mode="json")
        except ValidationError as error:
            raise ValueError(f"{key}: {error.errors()[0]['msg']}") from None


def inherited() -> Any:  # noqa: ANN401 - a field of whatever type
    """Return the field of a setting marked ``Own``: its default values, everything else inherited."""
    return Field(default_factory=dict, validate_default=True)


def in_place_of(shared: SettingsT, own: Mapping[str, Any], where: str = "") -> SettingsT:
    """Return the shared settings with a stage's own in place of theirs.

    Raises:
        ConfigError: an unknown key, or settings that contradict each other; the line starts with ``where``.

    Examples:
        >>> in_place_of(TrainingSettings(steps=7), {"batch_size": 4}).steps
        7
    """
    if not own:
        return shared
    kept = _undisplaced(type(shared), shared.model_dump(), own)
    try:
        return type(shared).model_validate({**kept, **own})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        said = f"key {key!r}: " * bool(key) + str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = unknown_name("key", key, type(shared).model_fields)
        raise ConfigError(": ".join(filter(None, (where, said)))) from None


def _undisplaced(model: type[Settings], values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    displaces: Mapping[str, tuple[str, ...]] = getattr(model, "displaces", {})
    gone = {other for key in own for other in displaces.get(key, ())}
    return {key: value for key, value in values.items() if key not in gone}
