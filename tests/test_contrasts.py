"""What the pages show of a contrast: no p of zero, sentences that agree in number, no more than the seeds say."""

import dataclasses

import contrasts
import pytest
from runs import ROOT

from ranet_lib import runs, training

EXPERIMENTS = ROOT / "book" / "experiments"


def found(seeds, settled=False):
    low, high = ((0.5 if settled else -1.5), 4.0) if len(seeds) > 1 else (None, None)
    lead = {"seeds": seeds, "lead": 1.25, "low": 0.5, "high": 2.0, "seeds_low": low, "seeds_high": high}
    return lead | {"p": 0.001, "seeds_p": 0.02 if settled else 0.3}


FAILED = "In {}, a run failed."


def test_a_lead_comes_with_both_of_its_intervals():
    assert list(contrasts.lead(found([0])).values()) == [1, "+1.25", "+0.50 to +2.00", "one seed"]
    assert list(contrasts.lead(found([0, 1])).values()) == [2, "+1.25", "+0.50 to +2.00", "-1.50 to +4.00"]
    assert list(contrasts.lead(None)) == list(contrasts.lead(found([0])))
    row = {"claim": "A claim", "found": found([0]), "holm": 0.0, "holm_seeds": 1.0, "detectable": 0.4}
    row |= {"verdict": "these networks only", "final": False}
    told, sure = list(contrasts.line(row).values())[1:]
    assert told == "so far: these networks only: +1.25 [+0.50, +2.00]"
    assert sure == "p <0.001; would find 0.40; one seed, no test over seeds"
    sure = contrasts.line(row | {"found": found([0, 2]), "holm_seeds": 0.9})["how sure"]
    assert sure == "p <0.001; would find 0.40; over 2 seeds: -1.50 to +4.00, p over seeds 0.900"
    assert contrasts.line(row | {"final": True})["found (points)"].startswith("these networks only: +1.25")


def test_a_lead_is_clear_if_no_interval_contains_zero():
    assert contrasts.clear(found([0])) and contrasts.clear(found([0, 1], settled=True))
    assert not contrasts.clear(found([0, 1]))  # over seeds
    assert not contrasts.clear(found([0]) | {"low": -0.5}) and contrasts.clear(found([0]) | {"low": -2.0, "high": -1.0})


@pytest.mark.parametrize("p, text", [(0.0, "<0.001"), (0.0004, "<0.001"), (0.0006, "0.001"), (1, "1.000")])
def test_no_probability_is_printed_as_zero(p, text):
    assert contrasts.p_text(p) == text


def row_with(verdict, lead=1.25, **changes):
    row = {"claim": "A claim", "found": found([0]) | {"lead": lead}, "failed": 0, "detectable": 0.4}
    return row | {"verdict": verdict, "final": True} | changes


def test_what_has_been_tested_is_told_in_a_sentence():
    waits = {"claim": "Another", "found": None, "failed": 0}
    none = "no seed with a finished run on both sides yet."
    none_of = f"None of the 3 claims named before their runs has been tested: each has {none}"
    assert contrasts.told([waits] * 3) == none_of
    assert contrasts.told([waits]) == f"The claim has {none}"
    alone = "these networks only"
    by = "by 1.25 points (95% interval 0.50 to 2.00"
    assert contrasts.told([row_with(alone)]) == f"The claim has been tested. *A claim*: as claimed in {alone}, {by})."
    turned = found([0]) | {"lead": -1.25, "low": -2.0, "high": -0.5}
    told = contrasts.told([row_with(alone, found=turned)])
    assert told == f"The claim has been tested. *A claim*: the opposite in {alone}, {by})."
    turned = found([0, 1]) | {"lead": -1.25, "low": -2.0, "high": -0.5, "seeds_low": -3.0, "seeds_high": -0.25}
    told = contrasts.told([row_with("reversed", found=turned)])
    assert told == f"The claim has been tested. *A claim*: reversed, {by}, over 2 seeds 0.25 to 3.00)."
    lead = "measured +1.25 points (95% interval +0.50 to +2.00)"
    nothing = f"*A claim*: no lead found, {lead}; the test finds a lead of 0.40 points four times in five"
    assert contrasts.told([waits, row_with("no lead found")]) == f"Of 2 claims, 1 has been tested. {nothing}."
    over_seeds = row_with("borne out", found=found([0, 1], True))
    said = f"Both claims have been tested. *A claim*: borne out, {by}, over 2 seeds 0.50 to 4.00); {nothing}."
    assert contrasts.told([over_seeds, row_with("no lead found")]) == said
    lost = waits | {"failed": 1}
    assert contrasts.told([lost]) == f"The claim has {none} A run of it failed."
    assert contrasts.told([lost] * 2).endswith(f"{none} {FAILED.format('2 of them')}")
    assert contrasts.told([row_with("borne out"), lost]).endswith(FAILED.format("1 more"))
    until, may_change = " Until every run with the seeds 0, 1, 2 has finished", ", verdicts may change."
    for rows in ([row_with(alone, final=False)], [row_with(alone, final=False), waits]):
        assert contrasts.told(rows).endswith(f"{by}).{until}{may_change}")
    said = contrasts.told([row_with("a run failed", final=False, failed=1)])
    assert said.endswith(f"{until} (a failed run has not){may_change}")


def test_many_tested_claims_are_counted_and_signs_and_blind_spots_told():
    alone, nothing = "these networks only", "no lead found"
    rows = [row_with(alone), row_with(alone, -0.5), row_with(nothing), row_with(nothing, detectable=0.7)]
    rows.append(row_with("borne out"))
    told = f"Borne out: 1; {alone}: 2 (1 as claimed, 1 the other way); {nothing}: 2"
    seen = "leads of 0.70 points are found four times in five"
    named = "*A claim*: {}, by 1.25 points (95% interval 0.50 to 2.00)."
    assert contrasts.told(rows) == f"All 5 claims have been tested. {told} ({seen}). {named.format('borne out')}"
    turned = found([0]) | {"lead": -1.25, "low": -2.0, "high": -0.5}
    rows = [row_with("reversed", found=turned), *[row_with(alone, -0.5)] * 2, row_with("a run failed")]
    told = f"Reversed: 1; {alone}: 2 (0 as claimed, 2 the other way); a run failed: 1."
    assert contrasts.told(rows) == f"All 4 claims have been tested. {told} {named.format('reversed')}"
    assert contrasts.told(rows[1:] * 2).endswith("a run failed: 2.")  # nothing to name


def test_one_seed_settles_nothing_and_what_is_settled_is_named():
    one = "A lead of one seed a side ranks two trained networks, not their kinds."
    sure, unsure = (found([0, 1], settled) for settled in (True, False))
    assert contrasts.settled({"a": found([0]), "b": found([0])}) == one
    both = "both p values, over images and over seeds, below 0.05 after Holm's correction for these leads alone"

    def told(count, which, *found):
        return contrasts.settled(dict(zip("abc", found))) == f"Of {count} leads over several seeds, {which}."

    assert contrasts.settled({"a": sure, "b": sure}) == f"All 2 leads over several seeds have {both}."
    four = {"a": found([0, 1], True) | {"seeds_p": 0.001}, "b": unsure}
    four |= {"c": four["a"], "d": four["a"]}
    assert contrasts.settled(four) == f"Of 4 leads over several seeds, 3 have {both}: all but b."
    both_of_three = f"2 have {both}: a, +1.25 points; c, +1.25 points"
    assert told(3, both_of_three, sure | {"seeds_p": 0.001}, unsure, sure | {"seeds_p": 0.001})
    assert told(3, f"none has {both}", sure, unsure, sure)  # 3 x 0.02
    assert told(2, f"1 has {both}: b, -0.75 points", unsure, sure | {"lead": -0.75})
    assert told(2, f"1 has {both}: a, +1.25 points", sure, sure | {"p": 0.06})
    said = contrasts.settled({"a": found([0]), "b": unsure})
    assert said == f"{one} The one lead over several seeds does not have {both}."
    assert contrasts.settled({"a": sure}) == f"The one lead over several seeds has {both}: a, +1.25 points."


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
    long = failed | {"recipe": dataclasses.asdict(training.recipe("evidence"))}
    assert contrasts.left_out({"fine": record, "long": long}) == ""
    assert contrasts.left_out({"long": long}, "evidence").endswith("left out: attention_tiny (1 of 1).")
