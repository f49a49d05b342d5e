"""What came of the contrasts, and what a page shows of one, and of any two sides that it compares.

`contrasts.yaml` names the claims of the paper that our runs test; `family` tests them together.
"""

import dataclasses
from pathlib import Path

import yaml

from ranet_lib import runs, training

SEEDS = 0, 1, 2  # named beforehand too: other seeds do not count


def read_claims():
    """The contrasts of `contrasts.yaml`, a list of dicts."""
    return yaml.safe_load(Path(__file__).with_name("contrasts.yaml").read_text(encoding="utf-8"))


def family(records):
    """One row for each of the contrasts that were named before their runs.

    `records` is a dict from name to record. Each contrast has a `claim`, `where` the paper makes it, and the sides that
    should have the `lower` and the `higher` error, as parameters of train.ipynb, on CIFAR-10 by the recipe `evidence`.
    A row has `claim`, `where`, `failed`, how many runs of the two sides failed, and `found`, what `runs.paired` returns
    (None where a side has no finished run). Where both have one, it has `holm` and `holm_seeds`, `p` and `seeds_p`
    adjusted over all contrasts, `detectable`, the lead that `p` finds with 80% power among them, and the `verdict`: "a
    run failed", or "no lead found" where `holm` is 0.05 or more, or "these networks only" where `holm_seeds` is, or
    else "borne out" or "reversed". It is `final` where no later run with one of the `SEEDS` can change it.
    """
    rows = []
    for named in read_claims():
        sides = [runs.finished(records, named[side], "evidence", failed=True) for side in ("lower", "higher")]
        sides = [{seed: record for seed, record in side.items() if seed in SEEDS} for side in sides]
        failed = sum("failure" in record for side in sides for record in side.values())
        final, found = not failed and all(set(side) == set(SEEDS) for side in sides), runs.paired(*sides)
        told = {"claim": named["claim"], "where": named["where"]}
        rows.append(told | {"failed": failed, "final": final, "found": found})

    def adjusted(counts):
        """Both p values of each row after Holm's correction; 1 for a row that does not count."""
        return zip(*(runs.holm([row["found"][p] if counts(row) else 1.0 for row in rows]) for p in ("p", "seeds_p")))

    # At worst, claims that wait for runs end with p = 1, at best with smaller values than this row's.
    complete, at_worst = all(row["final"] for row in rows), list(adjusted(lambda row: row["final"]))
    for row, (p, seeds_p), worst in zip(rows, adjusted(lambda row: row["found"]), at_worst):
        if found := row["found"]:
            differing, images = (found["better"] + found["worse"]) / found["images"], found["images"] / found["effect"]
            told = "these networks only" if seeds_p >= 0.05 else "borne out" if found["lead"] > 0 else "reversed"
            row |= {"holm": p, "holm_seeds": seeds_p, "detectable": runs.detectable(differing, images, len(rows))}
            row["verdict"] = "a run failed" if row["failed"] else told if p < 0.05 else "no lead found"
            row["final"] &= complete or max(worst) < 0.05
    return rows


def lead(found):
    """The lead in what `runs.paired` found, in points: of these networks, and over seeds, each with its interval."""
    if found is None:
        return {"seeds": 0, "lead (points)": "not run yet", "95%, these networks": "", "95%, over seeds": ""}
    return {
        "seeds": len(found["seeds"]), "lead (points)": f"{found['lead']:+.2f}",
        "95%, these networks": f"{found['low']:+.2f} to {found['high']:+.2f}",
        "95%, over seeds": "one seed" if found["seeds_low"] is None else
        f"{found['seeds_low']:+.2f} to {found['seeds_high']:+.2f}",
    }  # fmt: skip


def line(row):
    """A row of the family, tested, as a line of a table."""
    return {"claim": row["claim"]} | lead(row["found"]) | {
        "p, adjusted": p_text(row["holm"]), "would find": f"{row['detectable']:.2f}",
        "p over seeds, adjusted": p_text(row["holm_seeds"]), "verdict": verdict(row),
    }  # fmt: skip


def verdict(row):
    """What came of a row, with a word for one that later runs may change."""
    return row["verdict"] if row["final"] else f"so far: {row['verdict']}"


def p_text(p):
    """A probability with three digits; none is printed as zero."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def told(rows):
    """How many of some rows have been tested, and what came of them, in a sentence or two."""
    verdicts = [row["verdict"] for row in rows if row["found"]]
    lost = sum(row["failed"] > 0 for row in rows if not row["found"])
    if not verdicts and len(rows) == 1:
        return "The claim does not have runs on both sides yet." + " A run of it failed." * (lost > 0)
    failed = f" In {lost} {'more' if verdicts else 'of them'}, a run failed before both sides had one." if lost else ""
    if not verdicts:
        return f"Of the {len(rows)} claims named before their runs, none has runs on both sides yet.{failed}"
    kinds = ("borne out", "reversed", "these networks only", "no lead found", "a run failed")
    came = ", ".join(f"{kind}: {verdicts.count(kind)}" for kind in kinds if kind in verdicts)
    final = all(row["final"] for row in rows if row["found"])
    seeds = ", ".join(map(str, SEEDS))
    so_far = "" if final else f" Until all runs with the seeds {seeds} are there, verdicts may change."
    if len(rows) == 1:
        return f"The claim has been tested: {verdicts[0]}.{so_far}"
    have = "has" if len(verdicts) == 1 else "have"
    return f"Of {len(rows)} claims, {len(verdicts)} {have} been tested ({came}).{failed}{so_far}"


def settled(leads):
    """How far seeds settle some leads, which are what `runs.paired` found, in a sentence or two."""
    several = [max(found["p"], found["seeds_p"]) for found in leads if len(found["seeds"]) > 1]
    told = []
    if len(several) < len(leads):
        told.append("A lead of one seed a side ranks two trained networks, not their kinds.")
    if several:
        things, sure = "lead" if len(several) == 1 else "leads", sum(p < 0.05 for p in runs.holm(several))
        told.append(
            f"Of {len(several)} {things} over several seeds, {sure or 'none'} {'have' if sure > 1 else 'has'} both p "
            "values below 0.05 after Holm's correction for this table alone."
        )
    return " ".join(told)


def left_out(records):
    """A sentence that starts with a space and names the runs of the laptop study that failed; nothing if none did."""
    recipe = dataclasses.asdict(training.recipe("study"))
    failed = [row for row in runs.summary(records) if row["failed"] and row["recipe"] == recipe]
    named = "; ".join(f"{row['label']} ({row['failed']} of {row['failed'] + row['n']})" for row in failed)
    return f" Some runs failed and are left out: {named}." if failed else ""
