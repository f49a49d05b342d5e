"""Read `grid.yaml`: which runs the groups of experiments are made of.

    runs = read_grid("grid.yaml")["laptop"]     # {name of the run: its parameters, as train.ipynb takes them}

A grid is a mapping from the name of a group to a list of entries. An entry gives parameters of `train.ipynb`; a list
where a parameter takes one value means one run for each of its values. Everything is checked before anything starts,
and what is wrong is named with its line.
"""

import itertools
import json
import math
import re
import shlex
from pathlib import Path

import jsonschema
import yaml

from ranet_lib import runs

SCHEMA = json.loads((Path(__file__).parent / "grid.schema.json").read_text(encoding="utf-8"))
COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
MOST = 100_000  # values of a grid, and runs of an entry: more are a mistake, or would fill the memory


class GridError(ValueError):
    """A grid that cannot be run; the message names the file and the line."""


def read_grid(path):
    """The runs of each group of a grid, as `{group: {name: parameters}}`, all of them checked.

    Raises:
        GridError: not YAML, a group or parameter that does not exist, a value that is not allowed, or the same run
            twice in a group.
    """
    path = Path(path)
    content, lines = path.read_bytes(), {}
    try:
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
        grid = None if root is None else _plain(root, (), lines, path)
    except yaml.MarkedYAMLError as error:
        raise GridError(f"{path}, line {error.problem_mark.line + 1}: not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:  # which counts characters
        line = content.decode("utf-8")[: error.position].count("\n") + 1
        raise GridError(f"{path}, line {line}: not YAML: {error.reason} ({chr(error.character)!r})") from None
    except UnicodeDecodeError as error:
        raise GridError(f"{path}, line {content[: error.start].count(10) + 1}: not UTF-8 ({error.reason})") from None
    except GridError:
        raise
    except (ValueError, OverflowError) as error:  # PyYAML tells no line of "\\U00110000", nor of %YAML and a number
        raise GridError(f"{path}, line 1 or below: not YAML: {error}") from None
    except RecursionError:
        raise GridError(f"{path}, line 1: nested without end") from None
    if root is None:
        raise GridError(f"{path}, line 1: the grid is empty")

    def wrong(where, message):
        while where not in lines:  # a place inside a value that stands on one line
            where = where[:-1]
        return GridError(f"{path}, line {lines[where]}: {message}")

    known = list(SCHEMA["$defs"]["entry"]["properties"])
    for group, entries in grid.items() if isinstance(grid, dict) else ():
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            for name in entry if isinstance(entry, dict) else ():
                if name not in known:
                    message = f"unknown parameter {name!r}; the parameters are: {', '.join(known)}"
                    raise wrong((group, index, name), message)
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(grid))
    if error is not None:
        raise wrong(*_in_words(error))
    return {group: _runs(group, entries, wrong) for group, entries in grid.items()}


def _in_words(error):
    """The place of what the schema refuses, and what it says of it, as `description` has it."""
    where = tuple(error.absolute_path)
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return where, f"an entry must name {', '.join(error.validator_value)}; missing: {', '.join(missing)}"
    if "description" not in error.schema:
        return where, error.message
    if "propertyNames" in error.absolute_schema_path:
        where = (*where, error.instance)
    parameter = where[2] if len(where) > 2 else ""
    return where, f"{error.schema['description'].replace('{}', str(parameter))}; received {error.instance!r}"


def _plain(node, where, lines, path):
    """A YAML node as plain values; notes each place's line, and refuses a key that comes twice."""
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.CollectionNode) and node.tag not in COLLECTIONS:
        raise GridError(f"{path}, line {lines[where]}: not a value: {node.tag!r}")
    if len(lines) > MOST:
        raise GridError(f"{path}, line {lines[where]}: more than {MOST:,} values")
    if isinstance(node, yaml.MappingNode):
        values = {}
        for key_node, value_node in node.value:
            key = _plain(key_node, (*where, None), lines, path)
            if not isinstance(key, str):
                raise GridError(f"{path}, line {key_node.start_mark.line + 1}: a name must be text; found {key!r}")
            if key in values:
                raise GridError(f"{path}, line {key_node.start_mark.line + 1}: {key!r} is given twice")
            values[key] = _plain(value_node, (*where, key), lines, path)
            lines[*where, key] = key_node.start_mark.line + 1
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value, (*where, index), lines, path) for index, value in enumerate(node.value)]
    if node.style is None and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", node.value):
        return float(node.value)  # 1e-4 is a text for YAML 1.1, which PyYAML reads, and a number for everyone else
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
    except (ValueError, TypeError, AttributeError, LookupError, yaml.YAMLError):  # a 13th month, a strange tag
        raise GridError(f"{path}, line {lines[where]}: not a value: {node.value!r}") from None
    finally:
        loader.dispose()
    if type(value) in (int, float) and re.search(r"[_:]|^[-+]?0[0-9xb]", node.value):
        why = f"for YAML 1.1 it is {value}, for others a text or another number; write a plain number"
        raise GridError(f"{path}, line {lines[where]}: not a value: {node.value!r} ({why})")
    return value


def _runs(group, entries, wrong):
    made, first = {}, {}
    for index, entry in enumerate(entries):
        # Each value with its place, to name the line of a wrong one.
        choices = [
            [(name, one, (place,)) for place, one in enumerate(value)] if isinstance(value, list)
            else [(name, value, ())]
            for name, value in entry.items()
        ]  # fmt: skip
        if math.prod(map(len, choices)) > MOST:
            raise wrong((group, index), f"more than {MOST:,} runs in one entry")
        for chosen in itertools.product(*choices):
            parameters = {name: value for name, value, _ in chosen}
            try:
                name = runs.run_name(runs.check_parameters(parameters, there=False))
            except (ValueError, OSError) as error:
                said = str(error).split()[:3]
                for parameter, value, place in chosen:
                    if parameter in said or isinstance(value, dict) and set(said) & set(value):
                        raise wrong((group, index, parameter, *place), str(error)) from None
                raise wrong((group, index), str(error)) from None
            if name in made:
                raise wrong((group, index), f"group {group!r} has the run {name} in entry {first[name]} already")
            made[name], first[name] = parameters, index + 1
    return made


def command(parameters, executed, papermill="papermill"):
    """The command of a run, for a shell: train.ipynb by papermill, with these parameters, and where it is left."""
    words = [f"{papermill} book/experiments/train.ipynb {shlex.quote(executed)}"]
    for name, value in parameters.items():
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        words.append(f"-p {name} {shlex.quote(text)}")
    return " \\\n    ".join(words)
