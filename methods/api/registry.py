"""Registry of methods: modules of this package, and entry points ``tissuebench.methods`` of other packages."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any

import tissuebench.methods
from tissuebench.errors import ConfigError, unknown_name
from tissuebench.methods.api.method import Method

ENTRY_POINT_GROUP = "tissuebench.methods"
_registered: dict[str, type[Method[Any]]] = {}


def register(method: type[Method[Any]]) -> type[Method[Any]]:
    """Class decorator that registers a method under its ``name``.

    Raises:
        ConfigError: another class already has that name.
    """
    known = _registered.get(method.name)
    if known is not None and (known.__module__, known.__qualname__) != (method.__module__, method.__qualname__):
        raise ConfigError(
            f"method name {method.name!r} is taken by {known.__module__}; {method.__module__} must choose another"
        )
    _registered[method.name] = method
    return method


def all_methods() -> dict[str, type[Method[Any]]]:
    """Return all registered methods, sorted by name.

    Raises:
        ConfigError: an entry point cannot be loaded or is not a ``Method``.

    Examples:
        >>> from tissuebench.methods.api import all_methods
        >>> "supervised" in all_methods()
        True
    """
    for _, name, is_package in pkgutil.iter_modules(tissuebench.methods.__path__):
        if not is_package:
            importlib.import_module(f"tissuebench.methods.{name}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = point.load()
        except Exception as error:
            raise ConfigError(
                f"entry point {point.value!r} of {ENTRY_POINT_GROUP} cannot be loaded: {error}"
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, Method)):
            raise ConfigError(f"entry point {point.value!r} of {ENTRY_POINT_GROUP} is not a subclass of Method")
        register(loaded)
    return dict(sorted(_registered.items()))


def find_method(name: str) -> type[Method[Any]]:
    """Return the method class with the given name.

    Raises:
        ConfigError: no such method; the closest name is suggested.

    Examples:
        >>> from tissuebench.methods.api import find_method
        >>> sorted(find_method("complementary").consumes)
        [<Supervision.DIAGNOSIS: 'diagnosis'>, <Supervision.MASKS: 'masks'>]
    """
    if name not in _registered:  # entry points are looked up only then, which takes a while
        methods = all_methods()
        if name not in methods:
            raise ConfigError(unknown_name("method", name, methods))
    return _registered[name]
