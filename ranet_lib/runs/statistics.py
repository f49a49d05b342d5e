"""Differences between runs: what is chance, and what is not.

Of the images that two networks were tested on, only those count on which one is right and the other wrong (McNemar
1947). That says which of these two networks is better; for their kinds it takes several seeds.
"""

import math
import statistics

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, t

from ranet_lib import checks
from ranet_lib.runs import answers
from ranet_lib.runs.parameters import check_parameters
from ranet_lib.runs.results import settings, settings_of


def paired(records, others, confidence=0.95):
    """The lead of some runs over others with the same seeds, image by image.

    `records` and `others` are dicts from seed to run record. Records without answers, and seeds that only one of them
    has, are left out. Returns None where nothing is left, or else a dict with `seeds`, a list; `images`, how many
    answers were compared; `better` and `worse`, how many only the first, and only the other, gives right; `lead` in
    points, the other's error less the first's, with the interval `low` to `high` of these networks (`lead_interval`,
    of the given `confidence`) and the `p` of `mcnemar`, both from counts divided by the design `effect`: by what
    factor the variance of the lead grows because seeds agree on an image (Kish 1965), at least 1, and 1 where their
    test labels differ; `seeds_low` to `seeds_high`, the interval over seeds by Student's t, None for fewer than two,
    and `seeds_p`, its two-sided probability under equal kinds, 1 for fewer than two. Raises a ValueError for two runs
    of one seed that were not tested on the same images.
    """
    gains, tested = {}, []
    for seed in sorted(set(records) & set(others)):
        kept = [answers.of_record(each[seed]) for each in (records, others)]
        if None in kept:
            continue
        (labels, first), (same, second) = kept
        one, other = (each[seed]["dataset"]["fingerprint"] for each in (records, others))
        if one != other or len(labels) != len(same):
            raise ValueError(f"the runs of seed {seed} were not tested on the same images")
        gains[seed] = (first == labels).astype(int) - (second == labels)
        tested.append(labels)
    if not gains:
        return None
    each, effect = np.concatenate(list(gains.values())), 1.0
    if all(np.array_equal(labels, tested[0]) for labels in tested):
        rows = np.array(list(gains.values()))
        effect = max(1.0, float(rows.sum(axis=0).var() / (rows.var(axis=1).sum() or 1)))
    better, worse, images = int((each > 0).sum()), int((each < 0).sum()), len(each)
    low, high = lead_interval(better / effect, worse / effect, images / effect, confidence)
    found = {
        "seeds": list(gains), "images": images, "better": better, "worse": worse,
        "lead": 100 * (better - worse) / images, "low": low, "high": high,
        "p": mcnemar(round(better / effect), round(worse / effect)), "effect": effect,
        "seeds_low": None, "seeds_high": None, "seeds_p": 1.0}  # fmt: skip
    if (n := len(gains)) > 1:
        spread = statistics.stdev(100 * row.mean() for row in gains.values())
        error = max(spread, 100 * n / images) / math.sqrt(n)  # equal leads may still differ by an image
        half = float(t.ppf((1 + confidence) / 2, n - 1)) * error
        found |= {"seeds_low": found["lead"] - half, "seeds_high": found["lead"] + half}
        found["seeds_p"] = float(2 * t.sf(abs(found["lead"]) / error, n - 1))
    return found


def mcnemar(better, worse):
    """McNemar's exact two-sided probability (1947) that equal networks disagree so unevenly.

    Only the first network gives `better` images right, only the other `worse`: whole numbers, else a ValueError.
    """
    return float(binomtest(checks.whole("better", better, 0), better + checks.whole("worse", worse, 0) or 1).pvalue)


def lead_interval(better, worse, images, confidence=0.95):
    """Tango's score interval (1998) of a lead, in points: both limits, of the given `confidence`.

    Of so many `images`, only the first network gives `better` right, only the other `worse`; more is a ValueError.

    Example:
        >>> low, high = runs.lead_interval(9, 0, images=400)
        >>> print(f"{low:.1f} to {high:.1f} points")
        1.2 to 4.2 points
    """
    checks.number("confidence", confidence, above=0, below=1)
    checks.number("better and worse", min(better, worse), least=0)
    checks.number("images", images, above=0, least=images if math.isclose(better + worse, images) else better + worse)
    bar, lead, tiny = norm.isf((1 - confidence) / 2), (better - worse) / images, 1e-9

    def score(at):
        half = (better + worse - (2 * images - better + worse) * at) / 4 / images
        rarer = half + math.sqrt(max(0.0, half**2 + worse * at * (1 - at) / 2 / images))  # the share of `worse` there
        return (better - worse - images * at) / math.sqrt(max(tiny**2, images * (2 * rarer + at * (1 - at))))

    low = brentq(lambda at: score(at) - bar, tiny - 1, lead - tiny) if lead > tiny - 1 else -1.0
    high = brentq(lambda at: score(at) + bar, lead + tiny, 1 - tiny) if lead < 1 - tiny else 1.0
    return 100 * low, 100 * high


def holm(p_values):
    """The `p_values` (else a ValueError) of a family of tests, adjusted so that all err as seldom as one (Holm 1979).

    Example:
        >>> runs.holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p_values = [checks.number("p_values", p, least=0, most=1) for p in p_values]
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def detectable(differing, images, tests=1, power=0.8, level=0.05):
    """The smallest lead, in points, that a paired test finds with probability `power`.

    Two networks differ in being right on the share `differing` (0 to 1, else a ValueError) of `images`, their number.
    The test is one of so many `tests`, so it must pass Holm's first and strictest level; the family has the `level`.
    """
    z = norm.isf(level / tests / 2) + norm.isf(1 - power)
    share, images = checks.number("differing", differing, least=0, most=1), checks.number("images", images, above=0)
    return float(100 * z * math.sqrt(share / images))


def finished(records, side, profile, failed=False):
    """The finished runs among `records` of one `side` of a contrast: a dict from seed to the first finished record.

    `side` has parameters of train.ipynb (others are a ValueError), on CIFAR-10 and by `profile` where it has no other.
    Runs on unverified data are left out. With `failed`, a seed without a finished run has its first failed one.
    """
    run = check_parameters({"dataset": "cifar10", **side, "profile": profile}, there=False)
    asked = settings(run["model"], run["model_options"], run["dataset"], run["label_noise"], vars(run["recipe"]))
    last_first = sorted(records.values(), key=lambda one: ("test" not in one, one["time"]["finished"]), reverse=True)
    made = [one for one in last_first if one["dataset"]["copy"] != "unverified" and settings_of(one) == asked]
    return {record["seed"]: record for record in made if failed or "test" in record}
