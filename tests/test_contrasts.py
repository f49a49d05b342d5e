"""What the pages show of a contrast: no p of zero, sentences that agree in number, no more than the seeds say."""

import contrasts
import pytest
from runs import ROOT

from ranet_lib import runs

EXPERIMENTS = ROOT / "book" / "experiments"


def found(seeds, settled=False):
    low, high = ((0.5 if settled else -1.5), 4.0) if len(seeds) > 1 else (None, None)
    lead = {"seeds": seeds, "lead": 1.25, "low": 0.5, "high": 2.0, "seeds_low": low, "seeds_high": high}
    return lead | {"p": 0.001, "seeds_p": 0.02 if settled else 0.3}


FAILED = "In {}, a run failed before both sides had one."


def test_a_lead_comes_with_both_of_its_intervals():
    assert list(contrasts.lead(found([0])).values()) == [1, "+1.25", "+0.50 to +2.00", "one seed"]
    assert list(contrasts.lead(found([0, 1])).values()) == [2, "+1.25", "+0.50 to +2.00", "-1.50 to +4.00"]
    assert list(contrasts.lead(None)) == list(contrasts.lead(found([0])))
    row = {"claim": "A claim", "found": found([0]), "holm": 0.0, "holm_seeds": 1.0, "detectable": 0.4}
    row |= {"verdict": "these networks only", "final": False}
    assert list(contrasts.line(row).values())[-4:] == ["<0.001", "0.40", "1.000", "so far: these networks only"]
    assert list(contrasts.line(row | {"final": True}).values())[-1] == "these networks only"


@pytest.mark.parametrize("p, text", [(0.0, "<0.001"), (0.0004, "<0.001"), (0.0006, "0.001"), (1, "1.000")])
def test_no_probability_is_printed_as_zero(p, text):
    assert contrasts.p_text(p) == text


def test_what_has_been_tested_is_told_in_a_sentence():
    rows = [{"found": None, "failed": 0}, {"found": found([0]), "verdict": "no lead found", "final": True}]
    assert contrasts.told(rows[:1] * 3) == "Of the 3 claims named before their runs, none has runs on both sides yet."
    assert contrasts.told(rows[:1]) == "The claim does not have runs on both sides yet."
    assert contrasts.told(rows[1:]) == "The claim has been tested: no lead found."
    assert contrasts.told(rows) == "Of 2 claims, 1 has been tested (no lead found: 1)."
    rows += [{"found": found([0]), "verdict": "borne out", "final": True}] * 2
    assert contrasts.told(rows) == "Of 4 claims, 3 have been tested (borne out: 2, no lead found: 1)."
    lost = [{"found": None, "failed": 1}]
    assert contrasts.told(lost) == "The claim does not have runs on both sides yet. A run of it failed."
    assert contrasts.told(lost * 2).endswith("yet. " + FAILED.format("2 of them"))
    assert contrasts.told(rows[1:] + lost).endswith(FAILED.format("1 more"))
    rows[1] |= {"final": False}
    preliminary = " Until all runs with the seeds 0, 1, 2 are there, verdicts may change."
    assert contrasts.told(rows) == f"Of 4 claims, 3 have been tested (borne out: 2, no lead found: 1).{preliminary}"
    assert contrasts.told(rows[1:2]) == f"The claim has been tested: no lead found.{preliminary}"


def test_one_seed_settles_nothing():
    one = "A lead of one seed a side ranks two trained networks, not their kinds."
    sure, unsure = (found([0, 1], settled) for settled in (True, False))
    assert contrasts.settled([found([0])] * 2) == one
    both = "both p values below 0.05 after Holm's correction for this table alone."
    assert contrasts.settled([sure, sure]) == f"Of 2 leads over several seeds, 2 have {both}"
    assert contrasts.settled([sure, unsure, sure]) == f"Of 3 leads over several seeds, none has {both}"  # 3 x 0.02
    assert contrasts.settled([sure, unsure]) == f"Of 2 leads over several seeds, 1 has {both}"
    assert contrasts.settled([sure, sure | {"p": 0.06}]) == f"Of 2 leads over several seeds, 1 has {both}"
    assert contrasts.settled([found([0]), unsure]) == f"{one} Of 1 lead over several seeds, none has {both}"


def test_the_family_is_that_of_the_file():
    rows = contrasts.family({})
    text = (EXPERIMENTS / "contrasts.yaml").read_text(encoding="utf-8")
    assert [row["found"] for row in rows] == [None] * text.count("- claim:")


def test_runs_of_the_laptop_study_that_failed_are_named():
    record = runs.read_record(ROOT / "book" / "results" / "attention_tiny-cifar10-study-seed0.json")
    assert contrasts.left_out({"fine": record}) == ""
    failed = {key: value for key, value in record.items() if key != "test"} | {"failure": "diverged", "seed": 1}
    told = " Some runs failed and are left out: attention_tiny (1 of 2)."
    assert contrasts.left_out({"fine": record, "failed": failed}) == told
    other = failed | {"recipe": record["recipe"] | {"learning_rate": 9.0}}
    assert contrasts.left_out({"fine": record, "other recipe": other}) == ""
