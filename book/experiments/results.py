"""Take the records of runs into book/results, and print the table of all that is there.

    python book/experiments/results.py [RUNS]

RUNS is a folder of runs, such as a batch leaves (`runs` if it is not named). The record of each becomes
book/results/NAME.json, with the name that a batch gives such a run, whatever its folder is called. A record that is
there already is never replaced. What does not follow the schema, what this version cannot make again, and another
record of a run that is there already is named at the end, and the exit status is then 1.
"""

import argparse
import dataclasses
import re
import sys
from pathlib import Path

import grid as grids

from ranet_lib import runs, training

HERE = Path(__file__).resolve().parent


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of the runs (default: runs)")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="default: book/results")
    parser.add_argument("--grid", type=Path, default=HERE / "grid.yaml")
    asked = parser.parse_args(arguments)
    if asked.runs is not None and not asked.runs.expanduser().is_dir():
        parser.error(f"RUNS must be a folder; received {str(asked.runs)!r}")
    try:
        groups = grids.read_grid(asked.grid)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    wrong = take((asked.runs or Path("runs")).expanduser(), asked.results)
    found = {path.stem: record for path, record in read(asked.results.glob("*.json"), wrong).items()}
    print("\n".join(table(found)))
    for group, planned in groups.items():
        print(f"{group}: {sum(name in found for name in planned)} of {len(planned)} runs are there")
    for message in wrong:
        print(message, file=sys.stderr)
    return 1 if wrong else 0


def take(folder, results):
    """Copy the records of finished runs that are not there yet; returns what is wrong with the others.

    A record gets the name that a batch would give its run. Runs that a batch has put aside (`NAME.before-1`) are left
    out.
    """
    wrong = []
    paths = [path for path in folder.glob("*/record.json") if not re.search(r"\.before-\d+$", path.parent.name)]
    for path, record in read(paths, wrong).items():
        try:
            run = runs.check_parameters(runs.parameters_of(record), there=False)
        except ValueError as error:  # a profile or network of another version
            wrong.append(f"{path}: {error}")
            continue
        kept = results / f"{runs.run_name(run)}.json"
        try:
            runs.write_record(kept, record)
            print(f"new: {kept}")
        except FileExistsError:
            try:
                if runs.read_record(kept) != record:
                    wrong.append(f"{path}: {kept} is another record of the same run and stays; remove one of the two")
            except ValueError:
                pass  # a damaged record of that name: named with all others
    return wrong


def read(paths, wrong):
    """Valid records by path; what is wrong with the others is added to `wrong`."""
    found = {}
    for path in sorted(paths):
        try:
            found[path] = runs.read_record(path)
        except (OSError, ValueError) as error:
            wrong.append(str(error))
    return found


def table(found):
    """The lines of the table: a row for runs that differ in the seed alone."""
    head = ("network", "data", "recipe", "error %", "n", "paper %", "source %", "hours", "device")
    lines = [
        (
            row["label"],
            f"{row['dataset']} ({row['copy']}), {row['train_images']:,} and {row['test_images']:,} images",
            recipe_text(row["recipe"]),
            runs.error_text(row),
            str(row["n"]),
            *("" if row[by] is None else f"{row[by]:.2f}" for by in ("paper", "source")),
            f"{row['hours']:.2f}",
            ", ".join(row["devices"]),
        )
        for row in runs.summary(found)
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in (head, *lines)]


def recipe_text(recipe):
    """The `recipe` of a record in words: its profile, and what differs from it, `laptop, epochs 3`."""
    known = recipe["profile"] in training.list_profiles()
    usual = dataclasses.asdict(training.recipe(recipe["profile"])) if known else {"profile": recipe["profile"]}
    changed = [f"{name} {value}" for name, value in recipe.items() if name not in usual or usual[name] != value]
    return ", ".join([recipe["profile"], *changed]).replace("_", " ")


if __name__ == "__main__":
    sys.exit(main())
