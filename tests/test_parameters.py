"""The parameters of the experiment notebook: what they mean, and which are refused."""

import ast
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest
from runs import TRAIN

from ranet_lib import models, runs, training


def test_the_first_cell_of_the_notebook_has_the_defaults_as_literals():
    cells = nbformat.read(TRAIN, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    given = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body}
    assert given == runs.PARAMETERS


def test_without_parameters_a_run_is_the_default_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs.check_parameters({})
    assert run["model"] == "attention_micro" and run["recipe"] == training.recipe("first")
    assert run["model_options"]["learning"] == "residual"
    assert run["output_dir"] == Path("runs/attention_micro-cluttered_digits-first-seed0")


def test_a_finished_run_is_never_reused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = runs.check_parameters({})["output_dir"]
    folder.mkdir(parents=True)
    assert runs.check_parameters({})["output_dir"] == folder  # unfinished: goes on there
    (folder / "record.json").touch()
    assert runs.check_parameters({})["output_dir"].name == folder.name + "-2"
    with pytest.raises(ValueError, match="holds a finished run"):
        runs.check_parameters({"output_dir": str(folder)})


def test_other_settings_get_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {
        str(runs.check_parameters(changes)["output_dir"])
        for changes in ({}, {"epochs": 5}, {"label_noise": 0.3}, {"model_options": {"learning": "naive"}}, {"seed": 1})
    }
    assert len(folders) == 5


def test_parameters_as_papermill_and_a_notebook_give_them():
    names = {"__name__": "__main__", "_i1": "", "In": [], "Out": {}, "np": np, "exit": None, "seed": 3,
             "model_options": '{"learning": "naive"}', "epochs": 4, "mixed_precision": "mixed_bfloat16"}  # fmt: skip
    run = runs.check_parameters(names)
    assert (run["seed"], run["recipe"].epochs, run["recipe"].precision) == (3, 4, "mixed_bfloat16")
    assert run["model_options"] == models.check_options("attention_tiny", {"learning": "naive"})


def test_the_notebook_can_be_run_again_by_hand():
    names = {"seed": 1}
    names["run"] = runs.check_parameters(names)
    names |= {"recipe": names["run"]["recipe"], "history": [], "data": "the notebook's", "cost": 1.5, "seed": 2}
    assert runs.check_parameters(names)["seed"] == 2
    with pytest.raises(ValueError, match="unknown parameter 'lable_noise'"):
        runs.check_parameters({**names, "lable_noise": 0.3})
    with pytest.raises(ValueError, match="unknown parameter 'run'"):
        runs.check_parameters({"run": {"recipe": "full"}})


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"modle": "attention_56"}, "unknown parameter 'modle'; the parameters are: model,"),
        ({"model": "attention_57"}, "unknown model 'attention_57'"),
        ({"model": 56}, "unknown model 56"),
        ({"model_options": {"wdth": 2}}, "unknown option 'wdth'"),
        ({"model_options": "learning=naive"}, "model_options must be a dict or its JSON"),
        ({"model_options": [1]}, "model_options must be a dict"),
        ({"model_options": 0}, "model_options must be a dict"),
        ({"model_options": []}, "model_options must be a dict"),
        ({"model_options": "false"}, "model_options must be a dict"),
        ({"model_options": "[" * 100_000}, "model_options must be a dict"),
        ({"model_options": '{"width": 2, "width": 3}'}, "'width' is given twice"),
        ({"output_dir": ""}, "output_dir must be a path; received ''"),
        ({"output_dir": __file__}, "output_dir must be a folder"),
        ({"output_dir": f"{__file__}/run"}, "output_dir must be a folder"),
        ({"seed": int}, "seed must be a whole number from 0 to 4294967295; received <class 'int'>"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295"),
        ({"epochs": 10**30}, "epochs must be a whole number from 1 to 1000000"),
        ({"learning_rate": 10**400}, "learning_rate must be a number"),
        ({"dataset": "cifar"}, "unknown data set 'cifar'"),
        ({"dataset": "cifar10", "data_dir": "/nowhere/at/all"}, "no folder '/nowhere/at/all'"),
        ({"dataset": "folder:/nowhere/at/all"}, "no folder '/nowhere/at/all'"),
        ({"profile": "tiny"}, "profile must be one of"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295; received -1"),
        ({"label_noise": 1.5}, "label_noise must be a number at least 0 and at most 1; received 1.5"),
        ({"label_noise": "half"}, "received 'half'"),
        ({"learning_rate": -0.1}, "learning_rate must be a number above 0; received -0.1"),
        ({"batch_size": 1}, "batch_size must be a whole number of at least 2; received 1"),
        ({"profile": "smoke", "batch_size": 2000}, "batch_size must be at most train_images = 1600; received 2000"),
        ({"mixed_precision": True}, "mixed_precision must be one of 'float32'"),
        ({"devices": 0}, "devices must be a whole number of at least 1; received 0"),
        ({"devices": "all"}, "devices must be a whole number of at least 1; received 'all'"),
        ({"devices": 3}, "devices must divide batch_size 64; received 3"),
        pytest.param(
            {"devices": 2, "mixed_precision": "mixed_float16"}, "devices must be 1 with mixed_float16 on TensorFlow",
            marks=pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a limit of TensorFlow"),
        ),
    ],
)
def test_a_wrong_parameter_is_named(parameters, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runs.check_parameters(parameters)


def test_the_number_of_devices_is_no_setting_of_a_run(tmp_path, monkeypatch):
    """The same run, wherever it is made: the same name, and a checkpoint that goes on with more or fewer."""
    monkeypatch.chdir(tmp_path)
    checked = [runs.check_parameters({"devices": devices}) for devices in (None, 1, 2)]
    assert [run["devices"] for run in checked] == [1, 1, 2]
    assert len({run["output_dir"] for run in checked}) == 1
