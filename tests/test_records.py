"""Run records: valid or refused, whole or absent, never overwritten."""

import copy
import json
import re
import subprocess
import sys

import grid
import pytest
import results
from runs import ROOT, run_train
from scipy.stats import binomtest

from ranet_lib import counting, datasets, models, runs, training

EXPERIMENTS = ROOT / "book" / "experiments"


@pytest.fixture(scope="module")
def record():
    data = datasets.load_dataset("cluttered_digits")
    row = {
        "epoch": 1, "loss": 2.0, "error": 80.0, "validation_loss": 1.9, "validation_error": 75.0,
        "learning_rate": 0.1, "seconds": 2.5,
    }  # fmt: skip
    test = {"epoch": 2, "loss": 1.7, "error": 71.0}
    return runs.make_record(
        models.create_model("attention_tiny"), data, training.recipe("smoke"), [row, row | {"epoch": 2}],
        {"last_epoch": test, "chosen_on_validation": test}, options=models.check_options("attention_tiny", {}), seed=7,
        devices=2,
    )  # fmt: skip


def test_a_record_says_what_was_run(record):
    assert record["model"]["name"] == "attention_tiny" and record["model"]["parameters"] > 100_000
    assert record["dataset"]["train"] == training.recipe("smoke").train_images
    assert record["time"]["training"] == 5.0 and record["time"]["seconds_per_epoch"] == 2.5
    assert record["environment"]["ranet_lib"] and record["environment"]["processors"] >= 1
    assert record["environment"]["devices"] == 2


def test_the_books_records_have_the_names_that_their_runs_have():
    """Otherwise a batch does not know them, or `make results` takes another run for them."""
    for name, record in runs.read_records(ROOT / "book" / "results").items():
        run = runs.check_parameters(runs.parameters_of(record), there=False)
        assert runs.run_name(run) == name
        assert (run["seed"], run["recipe"].precision) == (record["seed"], record["recipe"]["precision"])
        asked = runs.settings(*(run[key] for key in ("model", "model_options", "dataset", "label_noise")), {})
        assert asked == runs.settings_of(record) | {"recipe": {}}


def test_the_parameters_of_shipped_weights_are_those_of_their_records():
    """Also of a record that is older than a field of the recipe."""
    for record in map(runs.pretrained_record, runs.list_pretrained()):
        run = runs.check_parameters(runs.parameters_of(record), there=False)
        told = record["model"]["name"], record["dataset"]["name"], record["seed"], record["recipe"]["epochs"]
        assert (run["model"], run["dataset"], run["seed"], run["recipe"].epochs) == told


def test_written_and_read_it_is_the_same(record, tmp_path):
    path = tmp_path / "deep" / "record.json"
    runs.write_record(path, record)
    assert runs.read_record(path) == record
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_finished_record_is_never_overwritten(record, tmp_path):
    path = tmp_path / "record.json"
    runs.write_record(path, record)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        runs.write_record(path, record | {"seed": 8})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda r: r.pop("history"), "'history' is a required property"),
        (lambda r: r.update(extra=1), "'extra' was unexpected"),
        (lambda r: r.pop("test"), "'test' is a required property"),
        (lambda r: r.update(failure="the loss is nan"), "a failed run has no test and no localization"),
        (lambda r: r["history"].clear(), r"\$.history: \[\]"),
        (lambda r: r["time"].update(seconds_per_epoch=None), r"\$.time.seconds_per_epoch: None is not of"),
        (lambda r: r["test"]["last_epoch"].update(error=101), r"\$.test.last_epoch.error: 101"),
        (lambda r: r["history"].pop(0), "epochs must run from 1"),
        (lambda r: r["dataset"].update(fingerprint="abc"), "fingerprint"),
        (lambda r: r.update(label_noise="0.1"), r"\$.label_noise"),
        (lambda r: r["environment"].update(devices=0), r"\$.environment.devices: 0"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused(record, damage, message, tmp_path):
    broken = copy.deepcopy(record)
    damage(broken)
    with pytest.raises(ValueError, match=message):
        runs.write_record(tmp_path / "record.json", broken)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bad.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="bad.json: not a run record"):
        runs.read_records(tmp_path)


def test_a_half_written_file_is_named(record, tmp_path):
    (tmp_path / "half.json").write_text(json.dumps(record)[:200])
    with pytest.raises(ValueError, match="half.json"):
        runs.read_records(tmp_path)


def test_infinite_losses_do_not_become_bad_json(record, tmp_path):
    broken = copy.deepcopy(record)
    broken["history"][0]["loss"] = float("inf")
    with pytest.raises(ValueError, match="not a run record: a number that JSON cannot hold"):
        runs.write_record(tmp_path / "r.json", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_is_named_when_it_is_read(record, tmp_path):
    broken = copy.deepcopy(record)
    broken["history"][0]["loss"] = float("nan")
    (tmp_path / "nan.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="nan.json: not a run record: NaN is not a finite number"):
        runs.read_record(tmp_path / "nan.json")


def test_the_papers_figure_is_set_beside_a_comparable_run(record):
    assert runs.published_error(record) is None
    comparable = copy.deepcopy(record)
    comparable["model"]["name"], comparable["dataset"]["name"] = "attention_56", "cifar10"
    assert runs.published_error(comparable) == 5.52
    comparable["model"]["options"]["checkpointing"] = True  # changes no result
    assert runs.published_error(comparable) == 5.52
    comparable["model"]["options"]["learning"] = "naive"
    assert runs.published_error(comparable) == 5.89
    comparable["model"]["options"]["width"] = 0.5
    assert runs.published_error(comparable) is None
    comparable["model"]["options"]["width"] = 1.0
    comparable["label_noise"] = 0.1
    assert runs.published_error(comparable) is None


# --- Failed runs


@pytest.fixture
def failed(record):
    """What `make_record` makes of a run that diverged before its first epoch was over."""
    failed = {key: copy.deepcopy(value) for key, value in record.items() if key != "test"}
    failed["time"] |= {"training": 0.0, "seconds_per_epoch": None}
    return failed | {"failure": "training diverged in epoch 1: the loss is nan", "history": []}


def test_a_failed_run_has_a_record_without_a_test(failed, tmp_path):
    runs.write_record(tmp_path / "record.json", failed)
    assert runs.read_record(tmp_path / "record.json") == failed


@pytest.mark.slow
def test_a_run_that_diverges_leaves_a_failed_record(tmp_path):
    folder = tmp_path / "runs" / "diverges"
    process = run_train(folder, profile="smoke", learning_rate=1e30)
    errors = process.communicate(timeout=3600)[1]
    assert process.returncode != 0 and re.search("training diverged in epoch 1: the loss is (nan|inf)", errors)
    record = runs.read_record(folder / "record.json")
    assert record["failure"].startswith("training diverged in epoch 1") and record["history"] == []
    assert record["recipe"]["learning_rate"] == 1e30 and "test" not in record
    assert not (folder / "checkpoint").exists() and not (folder / "model.weights.h5").exists()

    command = [sys.executable, str(EXPERIMENTS / "results.py"), str(folder.parent), "--results", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 failed" in done.stdout, done.stderr
    run = runs.check_parameters(runs.parameters_of(record), there=False)
    assert runs.read_record(tmp_path / "kept" / f"{runs.run_name(run)}.json") == record


# --- What was printed


@pytest.fixture
def planned():
    return grid.read_grid(EXPERIMENTS / "grid.yaml")


@pytest.mark.parametrize("by", ["paper", "source"])
def test_each_printed_error_belongs_to_a_row_of_the_grid(planned, by):
    printed = [row["error"] for kind in ("error", "label_noise") for row in runs.PUBLISHED[by][kind]]
    shown = [row[by] for row in runs.summary({}, planned[by]) if row[by] is not None]
    assert sorted(shown) == sorted(printed)


@pytest.mark.parametrize(
    "name, options, noise, paper, source",
    [
        ("attention_92", {}, 0.3, 5.79, None),
        ("attention_92", {}, 0.2, None, None),
        ("attention_92", {"learning": "naive"}, 0.3, None, None),
        ("source_attention_56", {}, 0.0, None, 6.71),
        ("source_attention_56", {"shortcut": False}, 0.0, None, 6.68),
        ("source_attention_56", {"shortcut": False, "dropout": 0.5}, 0.0, None, 6.68),  # its own dropout, said aloud
        ("source_attention_56", {"dropout": 0.0}, 0.0, None, None),
        ("source_attention_92", {}, 0.7, None, 18.3),
        ("resnet_164", {}, 0.7, 17.21, None),  # the student project repeats the paper's
    ],
)
def test_the_printed_figure_is_that_of_the_same_experiment(record, name, options, noise, paper, source):
    run = copy.deepcopy(record)
    run["model"] |= {"name": name, "options": models.check_options(name, options)}
    run["dataset"]["name"], run["label_noise"] = "cifar10", noise
    assert (runs.published_error(run), runs.published_error(run, by="source")) == (paper, source)


def test_what_is_printed_for_imagenet_names_networks_of_the_library():
    printed = runs.PUBLISHED["paper"]["imagenet"]
    named = {row["model"] for row in printed["error"]} - {None}
    assert {name for name in models.list_models() if name.endswith("imagenet")} == named
    assert all(0 < row["top_5"] < row["top_1"] < 100 for row in printed["error"])
    for name, parameters in printed["parameters_million_in_their_files"].items():
        assert round(counting.describe(name, 1000)["trainable"] / 1e6, 1) == parameters


# --- Rows over seeds


def another(record, error=71.0, **changes):
    """The record of another run: `changes` by the place of a value, such as `recipe__epochs`."""
    other = copy.deepcopy(record)
    if "test" in other:
        other["test"]["last_epoch"]["error"] = error
    for place, value in changes.items():
        *outer, last = place.split("__")
        inside = other
        for key in outer:
            inside = inside[key]
        inside[last] = value
    return other


def test_seeds_are_gathered_into_mean_and_deviation(record):
    errors = [71.0, 73.0, 72.5]
    found = {str(seed): another(record, error, seed=seed) for seed, error in enumerate(errors)}
    (row,) = runs.summary(found)
    assert (row["n"], row["seeds"], row["failed"], row["errors"]) == (3, [0, 1, 2], 0, errors)
    assert row["mean"] == pytest.approx(72.1667, abs=1e-3) and row["deviation"] == pytest.approx(1.0408, abs=1e-3)
    assert row["hours"] == pytest.approx(3 * 5.0 / 3600)
    assert row["devices"] == [f"2 of {record['environment']['device']}"]
    assert runs.error_text(row) == "72.17 ± 1.04 (n = 3)"


@pytest.mark.parametrize(
    "change",
    [
        {"model__name": "resnet_tiny"},
        {"model__options": {"learning": "naive"}},
        {"dataset__name": "cifar10"},
        {"dataset__copy": "official"},
        {"dataset__test": 500},
        {"dataset__train": 1500},
        {"label_noise": 0.1},
        {"recipe__epochs": 3},
        {"recipe__precision": "mixed_float16"},
        {"recipe__profile": "study"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_unlike_runs_are_never_averaged(record, change):
    rows = runs.summary({"one": record, "other": another(record, 90.0, seed=8, **change)})
    assert [row["errors"] for row in rows] == [[71.0], [90.0]] and rows[0]["deviation"] is None


def test_an_option_said_aloud_or_not_is_the_same_network(record):
    options = {**record["model"]["options"], "modules": [1, 1, 1], "pre_units": 0}
    (row,) = runs.summary({"one": record, "other": another(record, seed=8, model__options=options)})
    assert row["n"] == 2 and row["label"] == "attention_tiny"


def test_a_seed_counts_once_with_the_run_that_finished_first(record):
    again = another(record, 60.0, time__finished="2999-01-01T00:00:00Z")
    for found in ({"one": record, "again": again}, {"again": again, "one": record}):
        (row,) = runs.summary(found)
        assert row["errors"] == [71.0] and row["n"] == 1


def test_a_run_that_finished_counts_before_one_of_its_seed_that_failed(record, failed):
    again = another(record, seed=failed["seed"], time__finished="2999-01-01T00:00:00Z")
    (row,) = runs.summary({"one": failed, "again": again})
    assert (row["n"], row["failed"], row["errors"]) == (1, 0, [71.0])


def test_failed_runs_are_counted_beside_the_others(record, failed):
    (row,) = runs.summary({"one": record, "other": another(failed, seed=8)})
    assert (row["n"], row["failed"], row["seeds"], row["mean"]) == (1, 1, [7, 8], 71.0)
    assert runs.error_text(row).endswith("], 1 failed")
    (row,) = runs.summary({"other": failed})
    assert (row["n"], row["mean"], row["hours"]) == (0, None, 0.0) and runs.error_text(row) == "1 failed"


def test_a_plan_has_a_row_for_what_has_not_run(record):
    plan = {"model": "attention_tiny", "dataset": "cluttered_digits", "profile": "smoke"}
    planned = {
        "a": plan | {"model_options": {"learning": "naive"}, "seed": 7},
        **{f"b{seed}": plan | {"seed": seed} for seed in (7, 8)},
    }
    made = {"x": record, "y": another(record, recipe__epochs=3), "z": another(record, 80.0, dataset__copy="official")}
    naive, found, copied = runs.summary(made, planned)
    assert (naive["label"], naive["n"], naive["planned"], naive["layers"]) == ("attention_tiny, naive", 0, [7], 20)
    assert naive["mean"] is naive["flops"] is naive["hours"] is naive["devices"] is runs.error_text(naive) is None
    assert (found["planned"], found["seeds"], found["errors"]) == ([7, 8], [7], [71.0])
    assert (copied["copy"], copied["errors"]) == ("official", [80.0])
    (elsewhere,) = runs.summary(made, {"c": plan | {"dataset": "folder:photos of another machine"}})
    assert elsewhere["n"] == 0


@pytest.mark.parametrize(
    "options, label",
    [
        ({"modules": 2, "learning": "naive"}, "attention_tiny, naive, modules 2"),
        ({"modules": [1, 2, 3], "shortcut": False}, "attention_tiny, no shortcut, modules 1/2/3"),
        ({"mask_branch": "local", "width": 0.5}, "attention_tiny, local, width 0.5"),
        ({"dropout": 0.2, "checkpointing": True}, "attention_tiny, checkpointing 1, dropout 0.2"),
    ],
)
def test_a_row_says_what_sets_its_network_apart(record, options, label):
    options = models.check_options("attention_tiny", options)
    (row,) = runs.summary({"run": another(record, model__options=options, label_noise=0.3)})
    assert row["label"] == f"{label}, 30% noise"
    assert row["changed"] == {name: options[name] for name in row["changed"]} != {}


def test_a_recipe_is_told_by_its_profile_and_what_differs(record):
    assert results.recipe_text(record["recipe"]) == "smoke"
    assert results.recipe_text(record["recipe"] | {"epochs": 3}) == "smoke, epochs 3"


@pytest.mark.parametrize("wrong, images", [(2336, 10_000), (0, 500), (64, 64)])
def test_the_interval_of_one_run_is_wilsons(wrong, images):
    low, high = runs.error_interval(100 * wrong / images, images)
    expected = binomtest(wrong, images).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high))


# --- make results


def test_results_are_taken_once_and_what_is_wrong_is_named(record, failed, tmp_path, capsys):
    folder, kept, name = tmp_path / "runs", tmp_path / "kept", "attention_tiny-cluttered_digits-smoke-seed"
    same, new, other, failed = (another(one, seed=seed) for seed, one in enumerate((record, record, record, failed)))
    made = {"first": new, "same": same, "other": another(other, 60.0), "failed": failed}
    made |= {"same.before-1": another(same, 50.0)}  # which a batch has put aside
    made |= {"old": another(record, recipe__profile="long")}  # which is gone
    made |= {"changed": another(record, recipe__weight_decay=0.5)}
    for place, one in made.items():
        runs.write_record(folder / place / "record.json", one)
    (folder / "broken").mkdir()
    (folder / "broken" / "record.json").write_text(json.dumps(another(record, 101.0)))
    (folder / "unfinished").mkdir()
    runs.write_record(kept / f"{name}0.json", same)
    runs.write_record(kept / f"{name}2.json", other)
    (kept / "speed").mkdir()  # holds other records
    (kept / "speed" / "all.json").write_text("{}")
    before = {path: path.read_bytes() for path in kept.glob("*.json")}

    assert results.main([str(folder), "--results", str(kept)]) == 1
    said = capsys.readouterr()
    assert {path.name for path in kept.glob("*.json")} == {f"{name}{seed}.json" for seed in range(4)}
    assert runs.read_record(kept / f"{name}1.json") == new
    assert before == {path: path.read_bytes() for path in before}
    broken, changed, old, other = sorted(said.err.splitlines())
    assert broken.startswith(f"{folder / 'broken' / 'record.json'}: not a run record: $.test.last_epoch.error: 101")
    assert changed.endswith("record.json: the profile 'smoke' has changed since this run, in weight_decay")
    assert old.startswith(f"{folder / 'old' / 'record.json'}: profile must be one of ")
    assert other.startswith(f"{folder / 'other' / 'record.json'}: {kept / name}2.json is another record of the same ru")
    assert said.out.count("new: ") == 2 and "attention_tiny  cluttered_digits (embedded)" in said.out

    (kept / f"{name}1.json").write_text("{")
    assert results.main([str(folder), "--results", str(kept)]) == 1
    again = capsys.readouterr()
    assert f"{kept / name}1.json: " in again.err and "new: " not in again.out
    assert len(again.err.splitlines()) == 5


def test_nothing_wrong_is_exit_code_0(record, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert results.main(["--results", str(tmp_path / "kept")]) == 0  # nothing has run
    runs.write_record(tmp_path / "runs" / "one" / "record.json", record)
    assert results.main(["--results", str(tmp_path / "kept")]) == 0
    assert "  71.00 [68.97, 72.95]  1 " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        results.main([str(tmp_path / "missing")])
    assert f"RUNS must be a folder; received '{tmp_path / 'missing'}'" in capsys.readouterr().err


# --- The records of the book


RESULTS = ROOT / "book" / "results"


def test_every_committed_record_is_valid():
    found = runs.read_records(RESULTS)
    assert found, f"no record in {RESULTS}"
    for name, one in found.items():
        if "failure" in one:
            continue
        assert one["test"]["last_epoch"]["epoch"] == len(one["history"]), name
        assert one["test"]["chosen_on_validation"]["epoch"] == training.best_epoch(one["history"]), name
