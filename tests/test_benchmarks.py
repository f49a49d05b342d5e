"""The benchmarks: that what is compared is the same network, and that the command runs and keeps its results."""

import importlib
import json
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from runs import ROOT

from ranet_lib import blocks, counting, fused, models
from ranet_lib.training import devices, fitting, optimizer

LIMITS = [("matrix-product", "flops"), ("memory-copy", "bytes")]
RUN = ROOT / "benchmarks" / "run.py"


def run(*words):
    return subprocess.run([sys.executable, RUN, *map(str, words)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["attention_56", "resnet_164"])
def test_plain_torch_is_the_same_network(name, training, monkeypatch):
    """With the same weights the same logits, with the averages kept from earlier batches and with the batch's own."""
    monkeypatch.syspath_prepend(str(RUN.parent))
    import plain_torch
    import torch

    model, generator = models.create_model(name), np.random.default_rng(0)
    for layer in blocks.walk(model):
        if isinstance(layer, blocks.BatchNormalization):
            layer.moving_mean.assign(generator.normal(scale=0.1, size=layer.beta.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, size=layer.beta.shape))
    images = generator.normal(size=(8, 32, 32, 3)).astype("float32")
    network = plain_torch.network(models.model_spec(name)).train(training)
    plain_torch.copy_weights(model, network)
    expected = keras.ops.convert_to_numpy(model(images, training=training))
    with torch.no_grad():
        found = network(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_what_was_tried_takes_the_place_of_what_the_library_uses(monkeypatch):
    """Set on the face of a package, a function would replace nothing that the package itself calls."""
    monkeypatch.syspath_prepend(str(RUN.parent))
    import tried

    places = [fused.BatchNormalization, fused, devices, fitting, optimizer]
    before = {(place, name): value for place in places for name, value in vars(place).items()}
    for change in tried.CHANGES.keys() - tried.ENVIRONMENT.keys() - {"nothing", "graph as written"}:
        with monkeypatch.context() as undone:
            for (place, name), value in before.items():
                if callable(value) and name != "__class__" and not name.startswith("__"):
                    undone.setattr(place, name, value)
            tried.make(change)
            now = {(place, name): getattr(place, name) for place, name in before}
            replaced = [key for key, value in before.items() if callable(value) and now[key] is not value]
            assert replaced, change


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured as Unix tells it")
@pytest.mark.parametrize(
    "task, systems",
    [
        ("training", ["keras-tensorflow", "keras-jax", "torch-channels_last"]),
        ("inference", ["keras-tensorflow", "torch-channels_last", "onnxruntime", "matrix-product", "memory-copy"]),
    ],
)
def test_the_command_measures_and_keeps_the_results(tmp_path, task, systems):
    output = tmp_path / "speed.json"
    done = run(
        "--tasks", task, "--networks", "attention_56", "--systems", *systems,
        "--batch-size", 8, "--repeats", 2, "--seconds", 0.5, "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(output.read_text())
    found = {result["system"]: result for result in record["results"]}
    assert set(found) == set(systems)
    limits = {unit: found.pop(name)[f"{unit}_per_second"] for name, unit in LIMITS if name in found}
    for result in found.values():
        assert len(result["images_per_second"]) == 2 and min(result["images_per_second"]) > 0
        assert result["seconds_to_first_step"] > 0 and result["peak_memory"] > 1e8
        for unit, turns in limits.items():
            used = result[f"{unit}_per_image"] * np.median(result["images_per_second"])
            assert 0 < result[f"share_of_{unit}"] == pytest.approx(used / np.median(turns), rel=0.01)
    assert record["environment"]["device"] and "torch" in record["environment"]["versions"]
    assert "keras-tensorflow" in done.stdout and "of PyTorch" in done.stdout


def test_wrong_arguments_are_refused_before_anything_starts(tmp_path):
    taken = tmp_path / "speed.json"
    taken.write_text("{}")
    for words, message in [
        (["--networks", "attention_57"], "attention_57"),
        (["--repeats", "0"], "--repeats must be at least 1; received 0"),
        (["--output", taken], "results are not overwritten"),
    ]:
        done = run(*words)
        assert done.returncode == 2 and message in done.stderr
    assert taken.read_text() == "{}"


@pytest.mark.slow
def test_every_convolution_is_measured(tmp_path):
    """Together they have the FLOPs that the network is said to have, all but those of its dense layer."""
    output, script = tmp_path / "alone.json", RUN.with_name("convolutions.py")
    command = [sys.executable, script, "--batch-size", "2", "--repeats", "1", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(output.read_text())["results"]
    assert all(len(result["seconds"]) == 3 and min(result["seconds"]) > 0 for result in results)
    dense = 2 * models.create_model("attention_56").layers[-1].kernel.shape[0] * 10
    flops = sum(result["count"] * result["flops"] for result in results) / 2
    assert flops + dense == pytest.approx(counting.describe("attention_56")["flops"], rel=1e-3)


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of the benchmarks, whose `run` is not that of the experiments."""
    monkeypatch.setattr(sys, "path", [str(RUN.parent), *sys.path])
    kept = {name: sys.modules.pop(name, None) for name in ("run", "overhead", "growth")}
    yield importlib.import_module
    for name, module in kept.items():
        sys.modules.pop(name, None)
        if module:
            sys.modules[name] = module


def test_the_time_of_a_batch_is_that_of_its_runs_and_the_rest(benchmark, monkeypatch, tmp_path):
    overhead = benchmark("overhead")

    def batch(words, **more):
        log = tmp_path / "runs" / "one" / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text("[2026-01-01 00:00:00.000] starts with {}\n[2026-01-01 00:00:02.500] ended with a record\n")

    monkeypatch.setattr(overhead, "subprocess", SimpleNamespace(run=batch))
    monkeypatch.setattr(overhead, "time", SimpleNamespace(perf_counter=iter([10.0, 14.0]).__next__))
    seconds, rest = overhead.batch(tmp_path, [0])
    assert (seconds, rest) == ([2.5], 1.5)


def test_a_system_that_breaks_off_is_left_out_and_the_others_are_measured(benchmark, monkeypatch, capsys):
    measure = benchmark("run")

    class Worker:
        def __init__(self, point, quiet):
            self.asked = point
            self._break_off("starts")

        def _break_off(self, when):
            if self.asked == when:
                raise BrokenPipeError("broken pipe") if when == "measures" else RuntimeError("ended with exit status 9")
            return self

        def warm_up(self, seconds):
            return self._break_off("warms up")

        def measure(self):
            return self._break_off("measures")

        def close(self):
            return self._break_off("closes")

        def result(self):
            return self.asked

    monkeypatch.setattr(measure, "Worker", Worker)
    points = ["starts", "sound", "warms up", "measures", "closes", "sound too"]
    assert measure.compare(points, 2, 1.0, quiet=True) == ["sound", "sound too"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in said] == [
        ["left out", point] for point in ("starts", "warms up", "measures", "closes")
    ]
    assert benchmark("growth").table([], "width") == "width: nothing could be measured"
