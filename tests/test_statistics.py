"""Differences between runs: that chance is taken for chance, and nothing else for it."""

import copy
import dataclasses

import contrasts
import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp

from ranet_lib import models, runs, training

IMAGES = 2_000


@pytest.fixture
def record():
    """A record with `error` wrong answers for the test images, drawn by `seed` from images that are hard or easy."""
    template = runs.read_record(runs.book_folder() / "results" / "attention_tiny-cifar10-study-seed0.json")

    def make(error, seed=0, luck=0, model="attention_tiny", options=None, **fields):
        labels = np.random.default_rng(9).integers(0, 10, IMAGES)
        hard, own = np.random.default_rng(5).random(IMAGES), np.random.default_rng((seed, luck)).random(IMAGES)
        wrong = 0.8 * hard + 0.2 * own < np.quantile(0.8 * hard + 0.2 * own, error)
        found = copy.deepcopy(template) | {"seed": seed} | fields
        found["model"] |= {"name": model, "options": models.check_options(model, options or {})}
        found["dataset"]["test"] = IMAGES
        pack = runs.answers.pack
        found["test"] |= {"labels": pack(labels, 10), "answers": pack((labels + wrong) % 10, 10)}
        found["test"]["last_epoch"]["error"] = 100 * float(wrong.mean())
        return found

    return make


def test_the_lead_is_the_difference_of_the_errors_with_its_interval(record):
    one, other = record(0.10), record(0.14, luck=1)
    found = runs.paired({0: one}, {0: other})
    errors = [each["test"]["last_epoch"]["error"] for each in (one, other)]
    assert found["lead"] == pytest.approx(errors[1] - errors[0]) == pytest.approx(4.0)
    assert found["low"] < found["lead"] < found["high"] and found["low"] > 0
    assert found["lead"] == pytest.approx(100 * (found["better"] - found["worse"]) / IMAGES)
    differing = found["better"] + found["worse"]
    assert found["p"] == pytest.approx(2 * binom.cdf(found["worse"], differing, 0.5), rel=1e-6)
    assert found["seeds_low"] is None
    turned = runs.paired({0: other}, {0: one})
    assert turned["lead"] == -found["lead"] and turned["p"] == pytest.approx(found["p"])
    assert (turned["low"], turned["high"]) == pytest.approx((-found["high"], -found["low"]))


@pytest.mark.parametrize("only_first, only_second", [(0.02, 0.001), (0.01, 0.0), (0.06, 0.03), (0.004, 0.004)])
def test_the_interval_holds_the_lead_as_often_as_promised(only_first, only_second):
    """Also where nearly all disagreements are on one side, as few images leave them."""
    counts = np.random.default_rng(0).multinomial(400, [only_first, only_second, 1 - only_first - only_second], 1000)
    lead = 100 * (only_first - only_second)
    limits = [runs.lead_interval(int(better), int(worse), 400) for better, worse, _ in counts]
    assert np.mean([low <= lead <= high for low, high in limits]) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("better, worse", [(0, 0), (400, 0), (0, 400), (9, 0)])
def test_the_interval_ends_where_leads_end(better, worse):
    low, high = runs.lead_interval(better, worse, 400)
    assert -100 <= low <= (better - worse) / 4 <= high <= 100 and low < high
    assert runs.lead_interval(worse, better, 400) == pytest.approx((-high, -low))


def test_equal_answers_leave_an_interval_that_is_not_empty(record):
    found = runs.paired({0: record(0.1)}, {0: record(0.1)})
    assert found["lead"] == 0 and found["p"] == 1
    assert 0 < found["high"] < 0.5 and found["low"] == pytest.approx(-found["high"])


def test_between_equals_a_difference_is_found_as_seldom_as_promised(record):
    p_values = [
        runs.paired({0: record(0.1, luck=2 * trial)}, {0: record(0.1, luck=2 * trial + 1)})["p"] for trial in range(40)
    ]
    assert sum(p < 0.05 for p in p_values) <= 6  # of 40; more than six would be chance once in 300


def test_several_seeds_are_paired_within_each_and_have_an_interval_of_their_own(record):
    ours = {seed: record(0.10, seed) for seed in (0, 1, 2)}
    theirs = {seed: record(0.12, seed, luck=1) for seed in (1, 2, 3)}
    found = runs.paired(ours, theirs)
    assert found["seeds"] == [1, 2] and found["images"] == 2 * IMAGES
    assert found["lead"] == pytest.approx(2.0)
    # Both seeds lead by as much, which an image more or less would change.
    assert found["seeds_high"] - found["lead"] == pytest.approx(12.706 * 100 / IMAGES / np.sqrt(2), rel=1e-3)
    theirs[2] = record(0.13, 2, luck=1)
    found = runs.paired(ours, theirs)
    assert found["lead"] == pytest.approx(2.5)
    assert found["seeds_p"] == pytest.approx(ttest_1samp([2.0, 3.0], 0).pvalue)
    # The leads are 2 and 3. Student's t of one degree of freedom: 12.706 at 95%, 6.314 at 90%.
    assert (found["seeds_low"], found["seeds_high"]) == pytest.approx((2.5 - 6.353, 2.5 + 6.353), abs=1e-3)
    narrow = runs.paired(ours, theirs, confidence=0.9)
    assert narrow["seeds_high"] == pytest.approx(2.5 + 3.157, abs=1e-3)
    assert found["low"] < narrow["low"] < narrow["high"] < found["high"]


def test_seeds_that_agree_on_the_images_count_for_less(record):
    """Three copies of one seed are worth one; three seeds with luck of their own are worth nearly three."""
    one, other = record(0.10), record(0.14, luck=1)
    alone = runs.paired({0: one}, {0: other})
    copies = runs.paired({seed: one for seed in range(3)}, {seed: other for seed in range(3)})
    assert alone["effect"] == 1 and copies["effect"] == pytest.approx(3)
    assert copies["images"] == 3 * alone["images"] and copies["better"] == 3 * alone["better"]
    for same in ("lead", "low", "high", "p"):
        assert copies[same] == pytest.approx(alone[same])
    seeds = [{seed: record(error, seed, luck) for seed in range(3)} for error, luck in ((0.10, 0), (0.14, 1))]
    found = runs.paired(*seeds)
    assert 1 <= found["effect"] < 1.5
    assert found["high"] - found["low"] < 0.75 * (alone["high"] - alone["low"])


def test_the_interval_over_several_seeds_is_that_of_drawing_the_images_again(record):
    rng = np.random.default_rng(0)
    both = [{seed: record(error, seed, luck) for seed in range(3)} for error, luck in ((0.10, 0), (0.14, 1))]
    right = [[np.equal(*runs.answers.of_record(side[seed])) for seed in range(3)] for side in both]
    gains = np.subtract(*np.array(right, int))
    gains[1:] = gains[0] * (rng.random((2, IMAGES)) < 0.7)  # the seeds mostly agree
    drawn = [100 * gains[:, rng.integers(0, IMAGES, IMAGES)].mean() for _ in range(1000)]
    for seed, gain in enumerate(gains):
        labels, _ = runs.answers.of_record(both[0][seed])
        for side, wrong in ((0, gain < 0), (1, gain > 0)):
            both[side][seed]["test"]["answers"] = runs.answers.pack((labels + wrong) % 10, 10)
    found = runs.paired(*both)
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert (found["high"] - found["low"]) == pytest.approx(high - low, rel=0.1) and found["effect"] > 2


def test_what_cannot_be_compared_is_not(record):
    other = record(0.1)
    del other["test"]["answers"], other["test"]["labels"]
    assert runs.paired({0: record(0.1)}, {0: other}) is None and runs.paired({0: record(0.1)}, {}) is None
    foreign = record(0.1)
    foreign["dataset"]["fingerprint"] = "sha256:" + "0" * 64
    with pytest.raises(ValueError, match="seed 0 were not tested on the same images"):
        runs.paired({0: record(0.1)}, {0: foreign})


def test_holm_is_never_stricter_than_bonferroni_nor_laxer_than_one_test():
    p_values = [0.004, 0.03, 0.02, 0.5]
    adjusted = runs.holm(p_values)
    assert adjusted == pytest.approx([0.016, 0.06, 0.06, 0.5])
    assert all(p <= new <= min(1, 4 * p) for p, new in zip(p_values, adjusted))
    assert runs.holm([]) == []


@pytest.mark.parametrize(
    "impossible, said",
    [
        (lambda: runs.mcnemar(2.7, 1), "better must be a whole number .*2.7"),
        (lambda: runs.mcnemar(-1, 1), "better must be .*-1"),
        (lambda: runs.lead_interval(10, 5, images=10), "images must be .*at least 15; received 10"),
        (lambda: runs.lead_interval(-3, 5, images=10), "better and worse must be .*at least 0; received -3"),
        (lambda: runs.lead_interval(0, 0, images=0), "images must be .*above 0 .*received 0"),
        (lambda: runs.detectable(0.1, images=0), "images must be .*above 0; received 0"),
        (lambda: runs.holm([0.01, None]), "p_values .*received None"),
        (lambda: runs.lead_interval(9, 0, 400, confidence=95), "confidence must be .*below 1; received 95"),
        (lambda: runs.holm([0.01, float("nan")]), "p_values .*received nan"),
        (lambda: runs.detectable(8, 10_000), "differing must be .*at most 1; received 8"),
        (lambda: runs.error_interval(150, 100), "error must be .*at most 100; received 150"),
        (lambda: runs.error_interval(5, 0), "images must be .*above 0; received 0"),
        (lambda: runs.finished({}, {"model": "attention_92", "label_nose": 0.3}, "evidence"), "label_nose"),
    ],
)
def test_numbers_that_cannot_be_are_refused(impossible, said):
    with pytest.raises(ValueError, match=said):
        impossible()


def test_numbers_need_not_be_whole():
    """A mean error, a test set of any size; counts divided by a design effect, also where all answers differ."""
    assert runs.error_interval(5.25, 49.3) == pytest.approx(runs.error_interval(5.25, 50), abs=0.2)
    effect = 1.808965522853569  # 12 / effect + 122 / effect is more than 134 / effect
    low, high = runs.lead_interval(12 / effect, 122 / effect, 134 / effect)
    assert low < 100 * (12 - 122) / 134 < high


def test_a_detectable_lead_is_found_as_often_as_promised():
    images, differing = 10_000, 0.06
    lead = runs.detectable(differing, images, tests=12) / 100
    generator, found = np.random.default_rng(0), 0
    for _ in range(400):
        differ = generator.binomial(images, differing)
        better = generator.binomial(differ, 0.5 + lead / differing / 2)
        found += 2 * binom.cdf(min(better, differ - better), differ, 0.5) < 0.05 / 12
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def test_the_family_has_one_row_a_contrast_and_corrects_over_all(record):
    recipe = dataclasses.asdict(training.recipe("evidence"))
    again = record(0.3, luck=5, model="attention_56", recipe=recipe)
    found = {
        "good": record(0.10, model="attention_56", recipe=recipe),
        "naive": record(0.14, luck=1, model="attention_56", options={"learning": "naive"}, recipe=recipe),
        "channel": record(0.101, luck=2, model="attention_56", options={"mask_activation": "channel"}, recipe=recipe),
        "other recipe": record(0.3, luck=3, model="attention_92"),
        "changed": record(0.3, luck=4, model="attention_92", recipe=recipe | {"epochs": 3}),
        "again": again | {"time": again["time"] | {"finished": "2999-01-01T00:00:00Z"}},
    }
    rows = contrasts.family(found)
    assert [row["claim"] for row in rows] == [contrast["claim"] for contrast in contrasts.read_claims()]
    known = [row for row in rows if row["found"]]
    assert [(row["where"], row["found"]["lead"] > 3) for row in known] == [("table 3", True), ("table 1", False)]
    assert known[0]["holm"] == pytest.approx(12 * known[0]["found"]["p"]) and known[1]["holm"] > 0.05
    for tested in (row["found"] | {"detectable": row["detectable"]} for row in known):
        differing = (tested["better"] + tested["worse"]) / tested["images"]
        assert tested["detectable"] == pytest.approx(runs.detectable(differing, tested["images"], tests=12))


def two_sides(record, naive):
    """Records of the family's first contrast: one a seed with an error of 10%, and those with the errors `naive`."""
    shared = {"model": "attention_56", "recipe": dataclasses.asdict(training.recipe("evidence"))}
    found = {}
    for seed, error in enumerate(naive):
        found[f"residual {seed}"] = record(0.10, seed, **shared)
        found[f"naive {seed}"] = record(error, seed, luck=1, options={"learning": "naive"}, **shared)
    return found


@pytest.mark.parametrize(
    "naive, verdict",
    [
        ([0.14], "these networks only"),
        ([0.14, 0.145, 0.15], "borne out"),
        ([0.06, 0.055, 0.05], "reversed"),
        ([0.20, 0.11, 0.09], "these networks only"),
        ([0.13, 0.14, 0.15], "these networks only"),  # the interval over seeds leaves zero out, but of twelve?
        ([0.101, 0.10, 0.10], "no lead found"),
    ],
)
def test_a_claim_about_kinds_is_borne_out_only_where_its_seeds_agree(record, naive, verdict):
    row = contrasts.family(two_sides(record, naive))[0]
    assert (row["found"]["seeds"], row["verdict"]) == (list(range(len(naive))), verdict)
    assert row["holm_seeds"] == pytest.approx(min(1, 12 * row["found"]["seeds_p"]))
    assert row["final"] == (verdict in ("borne out", "reversed"))  # the others may change with another claim's p
    assert contrasts.verdict(row).startswith("so far: ") is not row["final"]


@pytest.mark.parametrize("naive, verdict", [([0.13, 0.14, 0.15], "these"), ([0.1] * 3, "no lead"), ([0.14], "these")])
def test_with_all_runs_of_all_claims_every_verdict_is_final(monkeypatch, record, naive, verdict):
    first, second, *_ = contrasts.read_claims()
    monkeypatch.setattr(contrasts, "read_claims", lambda: [first] * 12)
    rows = contrasts.family(two_sides(record, naive))
    assert all(row["final"] == (len(naive) == 3) for row in rows)
    assert rows[0]["verdict"].startswith(verdict)
    monkeypatch.setattr(contrasts, "read_claims", lambda: [first] * 11 + [second])
    assert not any(row["final"] for row in contrasts.family(two_sides(record, naive)))


def test_a_verdict_is_final_only_where_no_later_run_can_change_it(monkeypatch):
    """The p of a claim that still waits for seeds lowers Holm's factor of the others now, and may not in the end."""
    def family(p_values, seeds):
        claims = [{"claim": "", "where": "", "lower": row, "higher": row} for row in range(12)]
        monkeypatch.setattr(contrasts, "read_claims", lambda: claims)
        monkeypatch.setattr(runs, "finished", lambda records, row, *more, **named: {s: {} for s in range(seeds[row])})
        found = iter([
            {"seeds": list(range(made)), "p": p, "seeds_p": p,
             "lead": 1.0, "better": 2, "worse": 1, "images": 9, "effect": 1.0}
            for p, made in zip(p_values, filter(None, seeds))
        ])  # fmt: skip
        monkeypatch.setattr(runs, "paired", lambda *sides: next(found) if sides[0] else None)
        return [(row.get("verdict"), row["final"]) for row in contrasts.family({})]

    borne_out, waits = "borne out", [0] * 10
    assert family([0.0044, 0.001], [3, 1, *waits])[:2] == [(borne_out, False), (borne_out, False)]
    assert family([0.0044, 0.001], [3, 3, *waits])[:2] == [(borne_out, True), (borne_out, True)]
    assert family([0.0041, 0.001], [3, 1, *waits])[:2] == [(borne_out, True), (borne_out, False)]
    assert family([0.0044], [3, 0, *waits])[0] == ("no lead found", False)
    assert family([0.0044] + [0.9] * 11, [3] * 12)[0] == ("no lead found", True)


def test_of_twelve_false_claims_few_families_find_one(monkeypatch):
    """The leads of equal kinds scatter with the seed, more than the images explain."""
    rng, false, one_by_one = np.random.default_rng(0), 0, 0
    for _ in range(200):
        p_values = ttest_1samp(rng.normal(scale=0.5, size=(12, 3)), 0, axis=1).pvalue
        one_by_one += p_values.min() < 0.05
        found = iter([
            {"seeds": [0, 1, 2], "seeds_p": p, "p": 0.0,
             "lead": 1.0, "better": 2, "worse": 1, "images": 9, "effect": 1.0} for p in p_values
        ])  # fmt: skip
        monkeypatch.setattr(runs, "paired", lambda *sides, found=found: next(found))
        false += any(row["verdict"] == "borne out" for row in contrasts.family({}))
    assert false <= 20 < one_by_one  # of 200 at 5%: more than 20 would be chance once in 700


def test_other_seeds_do_not_count_and_failed_runs_do(record):
    found = two_sides(record, [0.14, 0.145, 0.15, 0.3])
    row = contrasts.family(found)[0]
    assert row["found"]["seeds"] == [0, 1, 2] and row["failed"] == 0
    failed = {key: value for key, value in found["naive 2"].items() if key != "test"} | {"failure": "diverged"}
    row = contrasts.family(found | {"naive 2": failed})[0]
    assert row["found"]["seeds"] == [0, 1] and (row["failed"], row["verdict"]) == (1, "a run failed")
    assert not row["final"]  # the seed may be run again
    alone = contrasts.family({"one side": found["residual 0"], "the other": failed | {"seed": 0}})
    assert alone[0]["found"] is None and alone[0]["failed"] == 1
    assert contrasts.told(alone[:1]).endswith("A run of it failed.")
    row = contrasts.family(found | {"before": failed})[0]  # the seed was run again
    assert (row["failed"], row["verdict"]) == (0, "borne out")


@pytest.mark.parametrize("better, worse", [(0, 0), (7, 19), (19, 7), (np.int64(3), np.int64(3)), (0, 12)])
def test_mcnemars_probability_is_that_of_so_uneven_tosses(better, worse):
    tosses, rarer = better + worse, min(better, worse)
    assert runs.mcnemar(better, worse) == pytest.approx(min(1.0, 2 * binom.cdf(rarer, tosses, 0.5)))


def test_the_runs_of_a_side_are_those_with_its_parameters_and_no_others(record):
    by_study = {"model": "attention_tiny", "model_options": {"learning": "naive"}}
    first, second = record(0.2, options={"learning": "naive"}), record(0.3, seed=1, options={"learning": "naive"})
    again = record(0.4, options={"learning": "naive"})
    again["time"] = again["time"] | {"finished": "2099-01-01T00:00:00+00:00"}
    other = record(0.1, options={"learning": "residual"})
    noisy = record(0.1, options={"learning": "naive"}, label_noise=0.3)
    failed = record(0.1, seed=2, options={"learning": "naive"})
    del failed["test"]
    records = dict(zip("abcdef", (again, second, first, other, noisy, failed)))
    assert runs.finished(records, by_study, "study") == {0: first, 1: second}
    assert runs.finished(records, by_study, "study", failed=True) == {0: first, 1: second, 2: failed}
    copied = copy.deepcopy(second)
    copied["dataset"]["copy"] = "unverified"
    assert runs.finished({"a": copied}, by_study, "study", failed=True) == {}
    assert runs.finished(records, by_study | {"label_noise": 0.3}, "study") == {0: noisy}
    assert runs.finished(records, by_study, "evidence") == {}
    deep = record(0.1, options={"modules": 2})
    by_depth = {"model": "attention_tiny", "model_options": {"modules": 2}}  # one number stands for every stage
    assert runs.finished({"deep": deep}, by_depth, "study") == {0: deep}
    assert runs.finished(records, by_study | {"dataset": "cifar100"}, "study") == {}
