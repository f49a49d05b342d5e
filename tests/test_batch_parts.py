"""The parts of a batch, one by one: the command, the GPUs, how many runs go on, the time that is left."""

import datetime
import os
import subprocess
import sys
from types import SimpleNamespace

import machine
import pytest

if sys.platform == "win32":
    pytest.skip("batches need Linux or macOS", allow_module_level=True)

from small_cifar import write_folder
from test_batch import EXPERIMENTS, entry, write_grid

from ranet_lib import counting, runs, training


@pytest.fixture
def batch():
    import batch  # not before: it needs Linux or macOS

    return batch


@pytest.fixture
def progress(batch):
    import progress

    return progress


@pytest.mark.parametrize(
    "words, message",
    [
        (["paper"], "group must be one of small; received 'paper'"),
        ([], "group must be one of small; none is named (GROUP)"),
        (["cifar", "--data-dir", "/nowhere"], "there is no folder '/nowhere', which data_dir names"),
        (["small", "--jobs", "0"], "--jobs must be at least 1; received 0"),
        (["small", "--grid", "missing.yaml"], "No such file or directory: 'missing.yaml'"),
    ],
)
def test_a_wrong_command_is_refused(batch, tmp_path, capsys, words, message):
    grid = write_grid(tmp_path / "grid.yaml", entry())
    if words[:1] == ["cifar"]:
        grid.write_text("cifar:\n  - " + entry().strip().replace("cluttered_digits", "cifar10"), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        batch.main(["--grid", str(grid), "--runs", str(tmp_path / "runs"), *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_second_batch_on_a_folder_is_refused(batch, tmp_path):
    import processes

    grid = write_grid(tmp_path / "grid.yaml", entry())
    held = processes.lock(tmp_path / "runs" / ".lock")
    with pytest.raises(SystemExit, match="another batch is working in .*runs; wait for its end"):
        batch.main(["small", "--grid", str(grid), "--runs", str(tmp_path / "runs")])
    held.close()
    assert os.listdir(tmp_path / "runs") == [".lock"]


def test_a_gpu_has_one_run_at_a_time(batch, tmp_path, monkeypatch):
    import processes

    monkeypatch.setattr(processes.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.take_gpus(1) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    with pytest.raises(ValueError, match="devices must be at most the 3 GPUs of this machine; received 4"):
        processes.take_gpus(4)
    first = processes.take_gpus(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    second = processes.take_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    free_one = SimpleNamespace(sleep=lambda seconds: first.pop().close() if first else None)
    monkeypatch.setattr(processes, "time", free_one)
    third = processes.take_gpus(1)  # waits until one of the first two is free
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    for held in (*second, *third):
        held.close()


@pytest.mark.parametrize("flags, lacks", [
    ("fpu sse2 avx avx2 fma", True), ("fpu sse2 avx avx2 avx512f avx512bw avx512_bf16 amx_bf16", False),
    ("fpu sse2 avx2 avx_vnni avx_ne_convert", False), (None, False),
])  # fmt: skip
def test_a_batch_in_bfloat16_is_warned_where_it_is_imitated(batch, tmp_path, monkeypatch, capfd, flags, lacks):
    import processes

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\n" + ("Features\t: asimd bf16" if flags is None else f"flags\t\t: {flags}\n"))
    assert processes.lacks_bfloat16(cpuinfo) is lacks
    assert not processes.lacks_bfloat16(tmp_path / "none")  # as on macOS
    monkeypatch.setattr(processes, "lacks_bfloat16", lambda: lacks)
    monkeypatch.setattr(processes, "list_gpus", lambda: [])
    for profile in ("laptop", "evidence"):
        batch.warn_of_bfloat16([{"recipe": training.recipe(profile)}])
        assert ("several times as fast here" in capfd.readouterr().out) is (lacks and profile == "evidence")


def test_without_a_gpu_each_core_has_a_run_of_one_thread(batch, tmp_path, monkeypatch):
    import processes

    started = []
    popen = lambda words, **more: started.append(more["env"])  # noqa: E731
    monkeypatch.setattr(batch, "subprocess", SimpleNamespace(DEVNULL=None, Popen=popen))
    monkeypatch.setattr(machine, "count_cores", lambda: 8)
    monkeypatch.setattr(processes, "list_gpus", lambda: [])
    for name in processes.THREADS:
        monkeypatch.delenv(name, raising=False)
    small, large = (runs.check_parameters({"model": f"attention_{size}", "profile": "full"}) for size in (56, 452))
    needed = batch.progress.memory(large)
    for memory, together in ((1, 1), (3 * needed + 1, 3), (2**50, 8)):
        monkeypatch.setattr(machine, "count_memory", lambda memory=memory: memory)
        assert batch.at_a_time([small, large]) == together
    monkeypatch.setattr(machine, "count_memory", lambda: needed)
    assert batch.at_a_time([small]) > 1
    assert batch.at_a_time([]) > 1  # where all runs are done
    with open(tmp_path / "lock", "wb") as held:
        batch.start(tmp_path, {}, [], held, 8)
        batch.start(tmp_path, {}, [], held, 3)
        batch.start(tmp_path, {}, [], held)  # on a cluster, whose jobs know their own cores
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        batch.start(tmp_path, {}, [], held, 8)
    found = [[env.get(name) for name in processes.THREADS] for env in started]
    assert found == [["1"] * 3, ["2"] * 3, [None] * 3, ["1", "5", "1"]]


def test_what_is_left_is_told_by_the_cost_of_each_run(progress, tmp_path):
    """Two epochs of a run took 10 s each; one that costs three times as much has four to go, on two runs at a time."""
    (tmp_path / "one").mkdir()
    rows = "epoch,seconds\n1,10.0\n2,10.0\n"
    (tmp_path / "one" / "history.csv").write_text(rows, encoding="utf-8")
    sizes = {"one": (3, 1_000, 1), "two": (4, 3_000, 1)}
    assert progress.summary(tmp_path, sizes, 2) == ("0 of 2 runs done", "; about 2 min 0 s left")  # as the longer takes
    assert progress.summary(tmp_path, sizes | {"three": (4, 3_000, 1)}, 2)[1] == "; about 2 min 5 s left"
    on_both = {"one": (3, 1_000, 1), "two": (4, 3_000, 2)}  # two GPUs, of which the longer run takes both
    assert progress.summary(tmp_path, on_both, 2)[1] == "; about 2 min 5 s left"
    assert progress.summary(tmp_path, sizes, 1) == ("0 of 2 runs done", "; about 2 min 10 s left")
    run = runs.check_parameters({"model": "resnet_tiny", "profile": "smoke"})
    assert progress.size(run) == (2, 1_600 * counting.describe("resnet_tiny")["flops"], 1)
    assert (progress.size(run | {"devices": 2})[2], progress.size(run | {"devices": 2}, elsewhere=True)[2]) == (2, 1)


def test_a_full_disk_or_a_silent_file_server_does_not_end_the_batch(progress, tmp_path, monkeypatch):
    polled, asked = iter([None, None, 0]), []
    monkeypatch.setattr(progress.time, "sleep", asked.append)

    def refused(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "summary", refused)
    progress.follow(SimpleNamespace(poll=lambda: next(polled)), tmp_path, {}, 1)
    assert len(asked) == 2 and max(asked) <= 60


def test_what_a_run_takes_besides_its_epochs_is_known_from_runs_that_nothing_stopped(progress, tmp_path, capsys):
    logs = {
        "once": [("00:00:00.000", "starts with {}"), ("00:01:00.000", "ended with a record")],
        "killed": [("00:00:00.000", "starts with {}"), ("05:00:00.000", "starts"), ("05:00:30.000", "ended")],
        "left": [("00:00:00.000", "starts with {}")],
    }
    for name, lines in logs.items():
        (tmp_path / name).mkdir()
        told = "".join(f"[2026-11-30 {time}] {words}\n" for time, words in lines)
        (tmp_path / name / "log.txt").write_text(told, encoding="utf-8")
        epochs = 1 if name == "left" else 2
        rows = "epoch,seconds\n" + "".join(f"{epoch},20.0\n" for epoch in range(1, epochs + 1))
        (tmp_path / name / "history.csv").write_text(rows, encoding="utf-8")
        if name != "left":
            (tmp_path / name / "record.json").touch()
    after_half_a_minute = datetime.datetime(2026, 11, 30, 0, 0, 30).timestamp()
    os.utime(tmp_path / "left" / "history.csv", (after_half_a_minute, after_half_a_minute))
    assert [progress.durations(tmp_path / name / "log.txt") for name in logs] == [[60.0], [None, 30.0], [None]]
    sizes = dict.fromkeys(logs, (2, 1_000, 1))
    assert progress.summary(tmp_path, sizes, 1) == ("2 of 3 runs done", "; about 30 s left")  # an epoch, and a half
    process = SimpleNamespace(poll=lambda: 0)
    progress.follow(process, tmp_path, {name: runs.check_parameters({"model": "resnet_tiny"}) for name in logs}, 1)
    assert capsys.readouterr().out.endswith(" 2 of 3 runs done\n")  # what was given up is not left


def test_a_record_that_cannot_be_read_is_reported_beside_the_others(batch, tmp_path, capsys):
    """A batch that is at its end when the project is updated: jobs write what its schema does not know."""
    for name, text in (("odd", "{}"), ("damaged", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text, encoding="utf-8")
    assert batch.report(tmp_path, ["odd", "damaged", "missing"], 0) == 1
    shown = capsys.readouterr().out
    assert "0 of 3 runs finished" in shown and "NOT RUN: missing" in shown
    assert "FAILED odd: " in shown and "FAILED damaged: " in shown


def test_a_data_folder_without_the_data_is_refused_before_a_run_starts(batch, tmp_path, capsys):
    grid = write_grid(tmp_path / "grid.yaml", entry().replace("cluttered_digits", "cifar10"))
    with pytest.raises(SystemExit) as ended:
        batch.main(["small", "--grid", str(grid), "--runs", str(tmp_path / "runs"), "--data-dir", str(tmp_path)])
    assert ended.value.code == 2 and f"no cifar10 in data_dir='{tmp_path}'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_more_runs_than_gpus_are_not_begun(batch, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [batch.at_a_time([], asked) for asked in (None, 1, 8)] == [2, 1, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert batch.at_a_time([], 3) == 3


@pytest.mark.parametrize("listed, gpus", [
    ("GPU 0: NVIDIA A100 (UUID: GPU-1)\nGPU 1: NVIDIA A100 (UUID: GPU-2)\n", ["0", "1"]),
    ("GPU 0: NVIDIA A100 (UUID: GPU-1)\n  MIG 3g.20gb Device 0: (UUID: MIG-a)\n  MIG 3g.20gb Device 1: (UUID: MIG-b)\n",
     ["MIG-a", "MIG-b"]),
    ("", []),
])  # fmt: skip
def test_the_slices_of_a_divided_gpu_take_its_place(batch, monkeypatch, listed, gpus):
    import processes

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = SimpleNamespace(returncode=0, stdout=listed)
    nvidia_smi = SimpleNamespace(run=lambda *words, **more: done, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(processes, "subprocess", nvidia_smi)
    assert processes.list_gpus() == gpus


def test_gpus_that_the_backend_cannot_use_are_left(batch, monkeypatch, capsys):
    import processes

    for device, left in (("NVIDIA H100", "0,1"), ("CPU: some", "-1")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        monkeypatch.setattr(processes, "device", lambda device=device: device)
        batch.leave_gpus_out_of_reach()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left
        assert ("make install BACKEND=cuda" in capsys.readouterr().out) == (left == "-1")


@pytest.mark.skipif(not runs.environment()["device"].startswith("CPU"), reason="this backend has a GPU that it can use")
def test_a_job_whose_gpu_the_backend_cannot_use_fails_at_once(batch, tmp_path, capfd, monkeypatch):
    """Really: this TensorFlow is asked for its device, and has none but the processor."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # whose GPUs are the job's own
    monkeypatch.delenv("RANET_ALLOW_CPU", raising=False)
    done = subprocess.run([sys.executable, EXPERIMENTS / "run.py", tmp_path, "{}"])
    assert done.returncode == 1 and sorted(path.name for path in tmp_path.iterdir()) == [".lock", "log.txt"]
    assert "RuntimeError: this job has a GPU that Keras's backend cannot use" in batch.reason(tmp_path)


def test_data_without_the_published_checksums_is_named_before_the_runs(batch, tmp_path, capsys):
    folder = write_folder(tmp_path, "cifar10", "binary")
    batch.check_data([{"dataset": "cifar10", "data_dir": str(folder)}])
    assert "its runs are recorded as unverified and test no claim" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds the class folders .*; at least two are needed"):
        batch.check_data([{"dataset": f"folder:{folder.parent}", "data_dir": None}])


def test_a_container_has_no_more_than_it_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "LIMITS", tmp_path)
    monkeypatch.setattr(machine, "GROUP", tmp_path / "cgroup")
    alone = machine.count_cores(), machine.count_memory()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.count_cores(), machine.count_memory()) == alone
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert (machine.count_cores(), machine.count_memory()) == (1, 1_000_000)
    (tmp_path / "job" / "step").mkdir(parents=True)  # as Slurm limits a job on a machine of many
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    (tmp_path / "job" / "memory.max").write_text("500000\n")
    assert (machine.count_cores(), machine.count_memory()) == (1, 500_000)


def test_the_lock_of_another_users_gpu_is_respected(batch, tmp_path, monkeypatch):
    import processes

    def of_another_user(path, mode="r", *more, **named):
        if mode == "ab":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode, *more, **named)

    held = processes.lock(tmp_path / "gpu.lock")
    monkeypatch.setattr(processes, "open", of_another_user, raising=False)
    assert processes.lock(tmp_path / "gpu.lock") is None
    held.close()
    processes.lock(tmp_path / "gpu.lock").close()


@pytest.mark.parametrize("change, told", [
    ({}, ""), ({"epochs": 3}, "epochs 15, not 3"), ({"seed": 1}, "seed 0, not 1"),
    ({"label_noise": 0.1}, "label_noise 0.0, not 0.1"),
    ({"model_options": {"learning": "naive"}}, "learning 'residual', not 'naive'"),
    ({"model_options": {"checkpointing": True}}, "checkpointing False, not True"),
    ({"dataset": "cifar10"}, "dataset 'cluttered_digits', not 'cifar10'"),
    ({"model_options": {"modules": 1}}, ""), ({"model_options": {"modules": 2}}, "modules [1, 1, 1], not [2, 2, 2]"),
])  # fmt: skip
def test_a_finished_run_is_done_again_only_where_its_settings_differ(batch, change, told):
    name = "attention_tiny-cluttered_digits-laptop-seed0-0af8eb5b"
    record = runs.read_record(EXPERIMENTS.parent / "results" / f"{name}.json")
    assert "checkpointing" not in record["model"]["options"]  # which is younger than the record
    asked = {"model": "attention_tiny", "profile": "laptop", "epochs": 15} | change
    assert batch.differences(record, runs.check_parameters(asked)) == told
