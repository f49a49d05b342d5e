"""Which environments a run was trained in: of one that was killed and resumed elsewhere, more than one."""

import pytest

from ranet_lib import datasets, models, runs, training


@pytest.fixture
def move(monkeypatch):
    """Go to another machine, as far as records tell; its environment."""
    here = runs.environment()

    def move(device):
        there = here | {"device": device}
        monkeypatch.setattr(runs.record, "environment", lambda: there)
        return there

    return move


def trains(folder, epochs):
    noted = runs.NoteEnvironment(folder)
    for epoch in epochs:
        noted.on_epoch_begin(epoch)
    return noted.made_on


def test_a_run_that_was_killed_and_resumed_elsewhere_names_each_environment(tmp_path, move):
    here = move("first")
    assert trains(tmp_path, [0, 1]) == trains(tmp_path, [2]) == [here]
    there = move("second")
    assert trains(tmp_path, []) == [here]  # a process that was refused, or found nothing to do
    made_on = trains(tmp_path, [3])
    assert made_on == [here, there]
    record = runs.make_record(
        models.create_model("attention_tiny"), datasets.load_dataset("cluttered_digits"), training.recipe("smoke"), [],
        failure="lost", made_on=made_on,
    )  # fmt: skip
    assert record["environment"] == there | {"devices": 1, "earlier": [here]}


def test_a_run_that_began_again_names_those_since(tmp_path, move):
    move("first")
    trains(tmp_path, [0])
    (tmp_path / "checkpoint" / "environments.json").write_text("{", encoding="utf-8")
    assert trains(tmp_path, [0]) == trains(tmp_path, [1]) == [move("first")]
    second = move("second")
    assert trains(tmp_path, [0]) == [second]  # its checkpoint was damaged and put aside
