"""Test the contrasts, and put the result of a contrast, or of any two sides, into words for a page.

`contrasts.yaml` names the claims of the paper that our runs test; `family` tests them together.
"""

import dataclasses
from pathlib import Path

import yaml

from ranet_lib import runs, training

SEEDS = 0, 1, 2  # named beforehand too: other seeds do not count
UNTESTED = "no seed with a finished run on both sides yet"


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
        found = runs.paired(*sides)  # without the records that keep no answers
        final = not failed and found is not None and found["seeds"] == list(SEEDS)
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


def clear(found):
    """Whether no interval of what `runs.paired` found contains zero: of these networks, and over seeds if there are."""
    over_seeds = found["seeds_low"] is None or found["seeds_low"] * found["seeds_high"] > 0
    return found["low"] * found["high"] > 0 and over_seeds


def line(row):
    """A row of the family, tested, as a line of a table: the claim, what was found, and how sure that is."""
    found, over_seeds = row["found"], "one seed, no test over seeds"
    if found["seeds_low"] is not None:
        over_seeds = f"over {len(found['seeds'])} seeds: {found['seeds_low']:+.2f} to {found['seeds_high']:+.2f}, "
        over_seeds += f"p over seeds {p_text(row['holm_seeds'])}"
    return {
        "claim": row["claim"],
        "found (points)": f"{verdict(row)}: {found['lead']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]",
        "how sure": f"p {p_text(row['holm'])}; would find {row['detectable']:.2f}; {over_seeds}",
    }


def verdict(row):
    """What came of a row, with a word for one that later runs may change."""
    return row["verdict"] if row["final"] else f"so far: {row['verdict']}"


def p_text(p):
    """A probability with three digits; none is printed as zero."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def outcome(row):
    """What came of a tested row in words: its claim, the verdict, and the lead with its intervals."""
    found, of = row["found"], row["verdict"]
    settled = of in ("borne out", "reversed", "these networks only")
    by, sign = ("by ", "") if settled else ("measured ", "+")
    turned = settled and found["lead"] < 0  # then it is the lead of the other side that is told
    if of == "these networks only":
        of = f"{'the opposite' if turned else 'as claimed'} in these networks only"

    def between(low, high):
        low, high = (-high, -low) if turned else (low, high)
        return f"{low:{sign}.2f} to {high:{sign}.2f}"

    interval = f"95% interval {between(found['low'], found['high'])}"
    if found["seeds_low"] is not None:
        interval += f", over {len(found['seeds'])} seeds {between(found['seeds_low'], found['seeds_high'])}"
    told = f"*{row['claim']}*: {of}, {by}{-found['lead'] if turned else found['lead']:{sign}.2f} points ({interval})"
    finds = f"; the test finds a lead of {row['detectable']:.2f} points four times in five"
    return told + finds * (row["verdict"] == "no lead found")


def counted(rows):
    """How many of some tested rows have each verdict, in words."""
    told = []
    for kind in ("borne out", "reversed", "these networks only", "no lead found", "a run failed"):
        if of_kind := [row for row in rows if row["verdict"] == kind]:
            told.append(f"{kind}: {len(of_kind)}")
            if kind == "these networks only":
                ahead = sum(row["found"]["lead"] > 0 for row in of_kind)
                told[-1] += f" ({ahead} as claimed, {len(of_kind) - ahead} the other way)"
            if kind == "no lead found":
                found = max(row["detectable"] for row in of_kind)
                told[-1] += f" (leads of {found:.2f} points are found four times in five)"
    return "; ".join(told)


def told(rows):
    """How many of some rows have been tested, and what came of them.

    Up to three are named; of more, those that are borne out or reversed.
    """
    tested = [row for row in rows if row["found"]]
    lost = sum(row["failed"] > 0 for row in rows if not row["found"])
    if not tested and len(rows) == 1:
        return f"The claim has {UNTESTED}." + " A run of it failed." * (lost > 0)
    failed = f" In {lost} {'more' if tested else 'of them'}, a run failed." if lost else ""
    if not tested:
        return f"None of the {len(rows)} claims named before their runs has been tested: each has {UNTESTED}.{failed}"
    so_far = ""
    if not all(row["final"] for row in tested):
        but = " (a failed run has not)" * any(row["failed"] for row in rows)
        so_far = f" Until every run with the seeds {', '.join(map(str, SEEDS))} has finished{but}, verdicts may change."
    named = tested
    if len(tested) > 3:
        named = [row for row in tested if row["verdict"] in ("borne out", "reversed")]
    came = "; ".join(map(outcome, named))
    if named != tested:
        came = counted(tested) + f". {came}" * bool(came)
    if len(rows) == 1:
        return f"The claim has been tested. {came}.{so_far}"
    have = f"Of {len(rows)} claims, {len(tested)} {'has' if len(tested) == 1 else 'have'}"
    if len(tested) == len(rows):
        have = "Both claims have" if len(rows) == 2 else f"All {len(rows)} claims have"
    return f"{have} been tested. {came[0].upper()}{came[1:]}.{failed}{so_far}"


def settled(leads):
    """How far seeds settle some `leads`, a dict from name to what `runs.paired` found, in a sentence or two."""
    several = {name: found for name, found in leads.items() if len(found["seeds"]) > 1}
    told = []
    if len(several) < len(leads):
        told.append("A lead of one seed a side ranks two trained networks, not their kinds.")
    if several:
        adjusted = runs.holm([max(found["p"], found["seeds_p"]) for found in several.values()])
        sure = [f"{name}, {several[name]['lead']:+.2f} points" for name, p in zip(several, adjusted) if p < 0.05]
        have = "have" if len(sure) > 1 else "has"
        count = f"Of {len(several)} leads over several seeds, {len(sure) or 'none'} {have}"
        if len(sure) == len(several) - 1 > 2:
            sure = [f"all but {name}" for name, p in zip(several, adjusted) if p >= 0.05]
        if len(several) == 1:
            count = "The one lead over several seeds " + ("has" if sure else "does not have")
        elif len(sure) == len(several):
            count, sure = f"All {len(several)} leads over several seeds have", []
        both = "both p values, over images and over seeds, below 0.05 after Holm's correction for these leads alone"
        told.append(f"{count} {both}{': ' * bool(sure)}{'; '.join(sure)}.")
    return " ".join(told)


def left_out(records, profile="study"):
    """A sentence that starts with a space and names the runs by a profile that failed; nothing if none did."""
    recipe = dataclasses.asdict(training.recipe(profile))
    failed = [row for row in runs.summary(records) if row["failed"] and row["recipe"] == recipe]
    named = "; ".join(f"{row['label']} ({row['failed']} of {row['failed'] + row['n']})" for row in failed)
    return f" Some runs failed and are left out: {named}." if failed else ""
