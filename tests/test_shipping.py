"""Weights on their way into the package: what stands in the way is said in a line."""

import shutil

import pytest
from runs import ROOT

from ranet_lib import runs

EXPERIMENTS = ROOT / "book" / "experiments"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import look
    import ship

    return ship, look


def test_weights_that_are_no_better_do_not_replace_those_there(scripts, tmp_path, capsys):
    name = "attention_tiny-cluttered_digits"
    shutil.copy(ROOT / "book" / "results" / f"{name}-laptop-seed0.json", tmp_path / "record.json")
    before = (runs.PRETRAINED / f"{name}.npz").read_bytes()
    assert scripts[0].main([str(tmp_path)]) == 1
    error = runs.pretrained_record(name)["history"][-1]["validation_error"]
    said = f"{name} stays: its validation error is {error}%, that of {str(tmp_path)!r} is {error}%\n"
    assert capsys.readouterr().err == said
    assert (runs.PRETRAINED / f"{name}.npz").read_bytes() == before


def test_a_folder_without_a_finished_run_is_refused(scripts, tmp_path, capsys):
    assert scripts[0].main([str(tmp_path)]) == 1
    message = f"RUN must be the folder of a finished run; {str(tmp_path)!r} holds no record.json\n"
    assert capsys.readouterr().err == message


def test_a_look_without_its_data_says_what_is_missing(scripts, tmp_path, capsys):
    missing = tmp_path / "missing"
    with pytest.raises(SystemExit) as ended:
        scripts[1].main(["attention_tiny-cifar10", "--data-dir", str(missing), "--folder", str(tmp_path)])
    assert ended.value.code == 2
    assert f"there is no folder {str(missing)!r}, which data_dir names" in capsys.readouterr().err
