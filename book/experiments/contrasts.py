"""What a page shows of a contrast, and of any two sides that it compares: the lead, and how sure it is.

`contrasts.yaml` names the claims of the paper that our runs test; `runs.family` tests them together.
"""

from pathlib import Path

import yaml

from ranet_lib import runs


def read_family(records):
    """The rows of `runs.family` for the contrasts of `contrasts.yaml`, by their recipe `evidence`."""
    text = Path(__file__).with_name("contrasts.yaml").read_text(encoding="utf-8")
    return runs.family(records, yaml.safe_load(text), "evidence")


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
        "p, adjusted": p_text(row["holm"]), "would find": f"{row['detectable']:.2f}", "verdict": row["verdict"],
    }  # fmt: skip


def p_text(p):
    """A probability with three digits; none is printed as zero."""
    return "<0.001" if p < 0.0005 else f"{p:.3f}"


def told(rows):
    """How many of some rows have been tested, and what came of them, in a sentence."""
    verdicts = [row["verdict"] for row in rows if row["found"]]
    if not verdicts:
        which = f"None of the {len(rows)} claims has" if len(rows) > 1 else "The claim does not have"
        return f"{which} runs on both sides yet."
    kinds = ("borne out", "reversed", "these networks only", "no lead found")
    came = ", ".join(f"{kind}: {verdicts.count(kind)}" for kind in kinds if kind in verdicts)
    if len(rows) == 1:
        return f"The claim has been tested: {verdicts[0]}."
    return f"Of {len(rows)} claims, {len(verdicts)} {'has' if len(verdicts) == 1 else 'have'} been tested ({came})."


def settled(leads):
    """How far seeds settle some leads, which are what `runs.paired` found, in a sentence or two."""
    several = [found["settled"] for found in leads if len(found["seeds"]) > 1]
    told = []
    if len(several) < len(leads):
        told.append("A lead of one seed a side ranks two trained networks, not their kinds.")
    if several:
        things, sure = "lead" if len(several) == 1 else "leads", sum(several)
        have = "have" if sure > 1 else "has"
        told.append(
            f"Of {len(several)} {things} over several seeds, {sure or 'none'} {have} an interval over seeds "
            "without zero, not corrected for their number."
        )
    return " ".join(told)
