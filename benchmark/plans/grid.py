"""Grids of a plan: a list in place of a single value of a setting gives one variant of the method per value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tissuebench.common.own_settings import Own
from tissuebench.common.settings import Settings
from tissuebench.errors import ConfigError
from tissuebench.methods.api.method import Method
from tissuebench.methods.api.registry import find_method
from tissuebench.plans.schema import Plan, validated
from tissuebench.plans.trial import variant_name

_COLLECTIONS = (list, tuple, set, frozenset, Sequence)
_TEST = "test"


@dataclass(frozen=True, slots=True)
class Variant:
    """A method with settings: what one row of a table is about."""

    method: str
    config: Settings

    @property
    def name(self) -> str:
        """Name in tables and files, see ``variant_name``."""
        return variant_name(self.method, self.config)


def variants_of(plan: Plan, method: str) -> tuple[Variant, ...]:
    """Return the variants of a method or control that a plan asks for, each once; one unless there is a grid.

    A grid is a list of values for a setting that holds a single one; several grids are crossed. For a setting that
    holds a list itself, a list is its value, and a list of lists is a grid. A control that follows the settings of the
    method that it belongs to has a variant for each of that method's.

    Raises:
        ConfigError: an unknown or invalid setting, or an empty grid.

    Examples:
        >>> plan = load_plan("smoke", ("methods.complementary.gamma=[0,1]", "evaluation.part=val"))
        >>> [variant.name for variant in variants_of(plan, "complementary")]
        ['complementary[gamma=0.0]', 'complementary[gamma=1.0]']
    """
    kind = find_method(method)
    crossed = {name: _crossed(find_method(name), settings) for name, settings in plan.methods.items()}
    first = {name: settings[0] for name, settings in crossed.items()}
    followed = [name for name, settings in crossed.items() if any(kind.planned_settings({name: s}) for s in settings)]
    found: dict[str, Variant] = {}
    for chosen in itertools.product(*(crossed[name] for name in followed)):
        planned = kind.planned_settings({**first, **dict(zip(followed, chosen, strict=True))})
        variant = Variant(method, validated(kind.Config, planned, f"plan: methods.{method}"))
        found.setdefault(variant.name, variant)
    return tuple(found.values())


def refuse_choice_on_test(variants: Sequence[Variant], part: str) -> None:
    """Raise ``ConfigError`` if a method has several variants that would be scored on the test part.

    The best of several variants on the test patients owes part of its score to these patients.
    """
    for method, group in itertools.groupby(variants, key=lambda variant: variant.method):
        n = len(list(group))
        if n > 1 and part == _TEST:
            raise ConfigError(
                f"plan: method {method!r} has a grid of {n} variants, and the best of them must not be chosen on test "
                "patients: add --set evaluation.part=val, then 'tissuebench results best' names the one to run on test"
            )


def _crossed(kind: type[Method[Any]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all combinations of the settings' grids, in the order written, the last varying fastest."""
    return list(_combinations(kind.Config, settings, f"methods.{kind.name}"))


def _combinations(model: type[BaseModel], settings: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    choices = [_choices(_field(model, key), value, f"{where}.{key}") for key, value in settings.items()]
    for values in itertools.product(*choices):
        yield dict(zip(settings, values, strict=True))


def _choices(field: FieldInfo | None, value: object, where: str) -> list[object]:
    """Return the values that a setting takes in turn: itself, unless it is a grid or holds one."""
    if field is None:  # an unknown key, which validation names
        return [value]
    kind = next((mark.model for mark in field.metadata if isinstance(mark, Own)), field.annotation)
    if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(_combinations(kind, value, where))
    if not isinstance(value, list) or (_holds_lists(kind) and not _is_list_of_values(field, value)):
        return [value]
    if not value:
        raise ConfigError(f"plan: {where}: a grid needs at least one value, as in [0, 1]")
    return value


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    """Return the field that is written as ``key``, by its name or another one that users may type."""
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        if key == name or key in (alias.choices if isinstance(alias, AliasChoices) else [alias]):
            return field
    return None


def _holds_lists(kind: object) -> bool:
    """Whether a list may be a value of this type, right or wrong: then it is never taken for a grid by accident."""
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType, Annotated):
        return any(map(_holds_lists, get_args(kind)))
    if origin in (Any, object):
        return True
    return isinstance(origin, type) and issubclass(origin, _COLLECTIONS) and not issubclass(origin, str)


def _is_list_of_values(field: FieldInfo, value: list[object]) -> bool:
    """Whether these are lists, each a value of the field, and not one value together."""
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])

    def fits(one: object) -> bool:
        try:
            adapter.validate_python(one)
        except ValidationError:
            return False
        return True

    return bool(value) and all(isinstance(one, list) and fits(one) for one in value) and not fits(value)
