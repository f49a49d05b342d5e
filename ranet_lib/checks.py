"""Checks of arguments: each returns the value, or raises a ValueError that names it and what is allowed."""

import collections
import math
import numbers
from pathlib import Path


def choice(name, value, allowed):
    """`value` if it is one of `allowed`, type included (1 is not True)."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; received {value!r}")
    return value


def whole(name, value, least=1, most=math.inf):
    """`value` as an int if it is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= value <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}; received {value!r}")
    return int(value)


def number(name, value, *, above=-math.inf, least=-math.inf, most=math.inf, below=math.inf):
    """`value` as a float if it is a finite number within the limits given."""
    try:
        fine = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:  # a whole number of 400 digits
        fine = False
    if not (fine and above < value < below and least <= value <= most):
        limits = {"above": above, "at least": least, "at most": most, "below": below}
        said = " and ".join(f"{word} {limit}" for word, limit in limits.items() if math.isfinite(limit))
        kind = "finite number" if isinstance(value, float) and not math.isfinite(value) else "number"
        raise ValueError(f"{name} must be a {kind} {said}; received {value!r}")
    return float(value) + 0.0  # minus zero is zero


def path(name, value):
    """`value` as a Path, with `~` for the home folder, if the system can take it for one."""
    try:
        if value == "":
            raise ValueError("it is empty")
        found = Path(value).expanduser()
        found.exists()
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{name} must be a path; received {value!r} ({error})") from None
    return found


def outputs(model, count, dataset):
    """Refuse a `model` of `count` outputs on a `dataset` of another number of classes."""
    if count != dataset.num_classes:
        raise ValueError(f"{model.name} has {count} outputs; {dataset.name} has {dataset.num_classes} classes")


def once(pairs):
    """The names and values of a JSON object as a dict (an `object_pairs_hook`), if no name is given twice."""
    if len(found := dict(pairs)) < len(pairs):
        name, _ = collections.Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} is given twice")
    return found
