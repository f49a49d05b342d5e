"""The experiment notebook where it takes a minute: killed and started again, and on CIFAR's own images."""

import subprocess
import sys

import pytest
from runs import HEADS, kill_in_second_epoch, result_of, run_train

from ranet_lib import runs

pytestmark = pytest.mark.slow


def run(folder, **parameters):
    """Run it in `folder`, by papermill's command; the record."""
    process = run_train(folder, **parameters)
    _, errors = process.communicate(timeout=3600)
    assert process.returncode == 0, errors[-3000:]
    return runs.read_record(folder / "record.json")


def test_killed_in_an_epoch_and_started_again_it_gives_the_same_record(tmp_path):
    """The same seed twice, once undisturbed and once killed: one result."""
    undisturbed = run(tmp_path / "undisturbed", profile="smoke")
    kill_in_second_epoch(tmp_path / "killed")
    resumed = run(tmp_path / "killed", profile="smoke")
    assert len(resumed["history"]) == len(undisturbed["history"])
    assert result_of(resumed) == result_of(undisturbed)
    assert not (tmp_path / "killed" / "checkpoint").exists()


def test_it_trains_on_real_cifar_images(tmp_path):
    if not HEADS.exists():
        pytest.skip("needs the small CIFAR files beside the project")
    subprocess.run([sys.executable, str(HEADS), str(tmp_path / "data"), "--heads"], check=True)
    record = run(
        tmp_path / "run", dataset="cifar100", data_dir=tmp_path / "data", profile="smoke", epochs=1, batch_size=32,
        label_noise=0.2,
    )  # fmt: skip
    assert (record["model"]["num_classes"], record["label_noise"]) == (100, 0.2)
    assert "localization" not in record
