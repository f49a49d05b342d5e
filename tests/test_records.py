"""Run records: valid or refused, whole or absent, never overwritten."""

import copy
import json
from pathlib import Path

import pytest

from ranet_lib import datasets, models, records, training


@pytest.fixture(scope="module")
def record():
    data = datasets.load_dataset("cluttered_digits")
    row = {
        "epoch": 1, "loss": 2.0, "error": 80.0, "validation_loss": 1.9, "validation_error": 75.0,
        "learning_rate": 0.1, "seconds": 2.5,
    }  # fmt: skip
    test = {"epoch": 2, "loss": 1.7, "error": 71.0}
    return records.make_record(
        models.create_model("attention_tiny"), data, training.recipe("smoke"), [row, row | {"epoch": 2}],
        {"last_epoch": test, "chosen_on_validation": test}, options=models.check_options("attention_tiny", {}), seed=7,
    )  # fmt: skip


def test_a_record_says_what_was_run(record):
    assert record["model"]["name"] == "attention_tiny" and record["model"]["parameters"] > 100_000
    assert record["dataset"]["train"] == training.recipe("smoke").train_images
    assert record["time"]["training"] == 5.0 and record["time"]["seconds_per_epoch"] == 2.5
    assert record["environment"]["ranet_lib"] and record["environment"]["processors"] >= 1


def test_written_and_read_it_is_the_same(record, tmp_path):
    path = tmp_path / "deep" / "record.json"
    records.write_record(path, record)
    assert records.read_record(path) == record
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_finished_record_is_never_overwritten(record, tmp_path):
    path = tmp_path / "record.json"
    records.write_record(path, record)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        records.write_record(path, record | {"seed": 8})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda r: r.pop("history"), "'history' is a required property"),
        (lambda r: r.update(extra=1), "'extra' was unexpected"),
        (lambda r: r["test"]["last_epoch"].update(error=101), r"\$.test.last_epoch.error: 101"),
        (lambda r: r["history"].pop(0), "epochs must run from 1"),
        (lambda r: r["dataset"].update(fingerprint="abc"), "fingerprint"),
        (lambda r: r.update(label_noise="0.1"), r"\$.label_noise"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused(record, damage, message, tmp_path):
    broken = copy.deepcopy(record)
    damage(broken)
    with pytest.raises(ValueError, match=message):
        records.write_record(tmp_path / "record.json", broken)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bad.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="bad.json: not a run record"):
        records.read_records(tmp_path)


def test_a_half_written_file_is_named(record, tmp_path):
    (tmp_path / "half.json").write_text(json.dumps(record)[:200])
    with pytest.raises(ValueError, match="half.json"):
        records.read_records(tmp_path)


def test_infinite_losses_do_not_become_bad_json(record, tmp_path):
    with pytest.raises(ValueError):
        records.write_record(tmp_path / "r.json", copy.deepcopy(record) | {"label_noise": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_result_digest_forgets_times_and_machines_but_no_result(record):
    same, other = copy.deepcopy(record), copy.deepcopy(record)
    same["time"]["training"] = 99.0
    same["history"][0]["seconds"] = 42.0
    same["environment"]["device"] = "another"
    other["history"][1]["error"] = 80.5
    assert records.result_digest(same) == records.result_digest(record) != records.result_digest(other)


def test_the_table_sets_the_papers_figure_beside_a_comparable_run(record):
    assert records.results_table({"run": record})[0]["paper %"] is None
    comparable = copy.deepcopy(record)
    comparable["model"]["name"], comparable["dataset"]["name"] = "attention_56", "cifar10"
    assert records.published_error(comparable) == 5.52
    comparable["model"]["options"]["learning"] = "naive"
    assert records.published_error(comparable) == 5.89
    comparable["model"]["options"]["width"] = 0.5
    assert records.published_error(comparable) is None
    comparable["model"]["options"]["width"] = 1.0
    comparable["label_noise"] = 0.1
    assert records.published_error(comparable) is None


RESULTS = Path(__file__).parents[1] / "book" / "results"


def test_every_committed_record_is_valid():
    found = records.read_records(RESULTS)
    assert found, f"no record in {RESULTS}"
    for name, one in found.items():
        assert one["test"]["last_epoch"]["epoch"] == len(one["history"]), name
        assert one["test"]["chosen_on_validation"]["epoch"] == training.best_epoch(one["history"]), name
