"""How a public name or argument leaves: for a release it still works, and warns with what to use instead.

A name of a module, `old_name`, that is called `new_name` from now on:

    __getattr__ = _deprecated.names(__name__, {"old_name": "new_name"}, since="0.2.0")

An argument:

    @_deprecated.argument("old", "new", since="0.2.0")
    def function(new): ...
"""

import functools
import importlib
import warnings


def names(module, renamed, *, since):
    """A module's `__getattr__` that gives, for each old name of `renamed`, what the new one stands for, and warns.

    Args:
        module: the module's `__name__`.
        renamed: dict from the old name to the new one: a name of this module, or of another (`ranet_lib.masks.resize`).
        since: the version that first warns. The next one may drop the name.
    """

    def __getattr__(name):
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = renamed[name].rpartition(".")
        place = place or module
        _warn(f"{module}.{name} is called {place}.{new} since version {since}, and goes in a later one", 3)
        return getattr(importlib.import_module(place), new)

    __getattr__.names = frozenset(renamed)
    return __getattr__


def argument(old, new, *, since):
    """A decorator for a function whose argument `old` is called `new` from now on."""

    def decorate(function):
        @functools.wraps(function)
        def with_old_name(*args, **options):
            if old in options:
                if new in options:
                    raise TypeError(f"{function.__name__}() got {new!r} and its old name {old!r}")
                _warn(f"{function.__name__}: {old!r} is called {new!r} since version {since}; the old name goes", 3)
                options[new] = options.pop(old)
            return function(*args, **options)

        return with_old_name

    return decorate


def _warn(message, level):
    warnings.warn(message, DeprecationWarning, stacklevel=level)
