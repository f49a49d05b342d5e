"""Batches on clusters: on Slurm's own daemons, and on a stand-in for Kubernetes."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_kubernetes import Kubernetes
from runs import ROOT
from slurm import Cluster
from test_batch import EXPERIMENTS, finished, kernel_of, wait_for

PROFILES = EXPERIMENTS / "profiles"

GRID = """
small:
  - {model: resnet_tiny, model_options: {width: 0.25}, dataset: cluttered_digits, profile: smoke, epochs: 1}
  - {model: resnet_tiny, model_options: {width: 0.25}, dataset: cluttered_digits, profile: smoke, epochs: 8, seed: 1}
more:
  - {model: resnet_tiny, model_options: {width: 0.25}, dataset: cluttered_digits, profile: smoke, epochs: 1, seed: 2}
"""


def hear_ctrl_c():
    """What runs in the background, as tests may, is deaf to Ctrl-C, and so would be what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# --- Without a cluster -------------------------------------------------------------------------------------------


@pytest.fixture
def modules():
    import batch  # not before: it needs Linux or macOS
    import processes

    return batch, processes


def test_a_profile_says_how_many_runs_go_on_unless_the_command_does(modules, monkeypatch):
    batch, processes = modules
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert batch.limits(None, elsewhere=True) == []
    assert batch.limits(7, elsewhere=True) == ["--jobs", "7"]
    assert batch.limits(batch.at_a_time([]), elsewhere=False) == ["--cores", "2", "--jobs", "2", "--resources", "gpu=2"]


def test_the_gpus_of_a_slurm_job_are_its_own(modules, monkeypatch, tmp_path):
    _, processes = modules
    monkeypatch.setattr(processes.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert processes.take_gpus(1) == processes.take_gpus(1) == []  # the 0 of two jobs may be two GPUs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # more than the run asks for: a batch inside one job
    (held,) = processes.take_gpus(1)
    held.close()


def test_a_run_that_was_cut_off_is_told_from_one_that_failed(modules, tmp_path):
    batch, _ = modules
    log = tmp_path / "log.txt"
    first = "[2026-01-01 00:00:00.000] starts with {}\n[2026-01-01 00:00:01.000] ended without a record: no disk\n"
    log.write_text(first)
    assert batch.reason(tmp_path).endswith("ended without a record: no disk")
    log.write_text(f"{first}[2026-01-01 00:00:02.000] starts with {{}}\na line of TensorFlow's\n")
    assert batch.reason(tmp_path) == "ended from outside: by a kill, or at the limit of its time or memory"


def test_the_words_of_a_cluster_that_takes_no_job_are_found_in_the_log_of_the_batch(modules, tmp_path):
    batch, _ = modules
    log = tmp_path / "batch.log"
    log.write_text(
        "sbatch: error: of the batch before this one\nBuilding DAG of jobs...\n"
        "Error in rule run:\n    message: SLURM sbatch failed. The error message was 'sbatch: error: no account'.\n"
        'Error from server (Forbidden): error when creating "STDIN": exceeded quota\nerror: no configuration\n'
        "sbatch: error: no account\nWorkflowError:\nError submitting jobscript (exit code 1):\n"
    )
    forbidden = 'Error from server (Forbidden): error when creating "STDIN": exceeded quota'
    assert batch.refusals(log, 40) == ["sbatch: error: no account", forbidden, "error: no configuration"]
    assert batch.refusals(tmp_path / "not there", 0) == []


@pytest.mark.slow
def test_a_second_process_waits_for_the_first_and_leaves_its_record_alone(modules, tmp_path):
    _, processes = modules
    folder = tmp_path / "run"
    held = processes.lock(folder / ".lock")
    command = [sys.executable, str(EXPERIMENTS / "run.py"), str(folder), "{}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second, held:
        assert second.stdout.readline() == f"{folder} waits, because another process works on it\n"
        (folder / "record.json").write_text("the first one's")
        held.close()
        assert second.wait(timeout=600) == 0
    assert sorted(os.listdir(folder)) == [".lock", "record.json"]
    assert (folder / "record.json").read_text() == "the first one's"


def put_an_end_to(*processes):
    """Kill what of it there is: processes, or their numbers; one that stands still as well."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            if isinstance(process, int):
                os.kill(process, signal.SIGKILL)
            elif process is not None:
                process.kill()


# --- Slurm -------------------------------------------------------------------------------------------------------


class Story:
    """A batch of two runs where one GPU is free: a job is cancelled, the batch killed, started again, and once more.

    The cancelled run waits for its second job when the batch is killed, and the other run is going on. Then another
    batch is refused, and in the end interrupted from the keyboard.
    """

    def __init__(self, folder):
        self.folder, self.grid = folder / "runs", folder / "grid.yaml"
        self.grid.write_text(GRID)
        self.cluster = Cluster(folder / "slurm", gpus=1)
        batch = kernel = None
        try:
            batch = self.start()
            self.cancelled = wait_for(self.run_at_work)
            self.cluster.run("scancel", self.jobs_of(self.cancelled)[0]["JobId"])
            wait_for(lambda: self.jobs_of(self.cancelled, "CANCELLED"))
            self.going_on = wait_for(self.run_at_work)
            # It stands still until the next batch has seen it, however quick the machine is.
            kernel = wait_for(lambda: kernel_of(self.folder / self.going_on))
            os.kill(kernel, signal.SIGSTOP)
            wait_for(lambda: self.jobs_of(self.cancelled, "PENDING"))
            batch.kill()
            batch.communicate()

            plan = self.folder / ".plan.json"
            old = plan.read_text()
            batch = self.start()
            wait_for(lambda: plan.read_text() != old or batch.poll() is not None)  # written after it has looked
            os.kill(kernel, signal.SIGCONT)
            kernel = None
            self.status, self.output = self.end(batch)
            self.records, self.jobs = finished(self.folder), self.cluster.jobs()
            self.last_status, self.last_output = self.end(self.start())
            self.last_records, self.last_jobs = finished(self.folder), self.cluster.jobs()

            self.refused_status, self.refused_output = self.end(self.start("more", "run:slurm_partition=none"))
            batch = self.start("more")
            self.interrupted = wait_for(self.run_at_work)
            kernel = wait_for(lambda: kernel_of(self.folder / self.interrupted))
            os.kill(kernel, signal.SIGSTOP)  # so that the run does not end before it is interrupted
            # While Snakemake asks how jobs are, it has no list of those to cancel. Then it waits, 11 seconds or more.
            wait_for(lambda: 1 < time.time() - self.cluster.asked.stat().st_mtime < 5)
            os.killpg(batch.pid, signal.SIGINT)
            self.interrupted_status, self.interrupted_output = self.end(batch)
            self.interrupted_job = wait_for(lambda: self.jobs_of(self.interrupted, "CANCELLED"))[0]
        finally:
            put_an_end_to(batch, kernel)
            self.cluster.stop()

    def start(self, group="small", *resources):
        return subprocess.Popen(
            [
                sys.executable, str(EXPERIMENTS / "batch.py"), group, "--grid", str(self.grid), "--runs",
                str(self.folder), "--", "--profile", str(PROFILES / "slurm"),
                "--slurm-init-seconds-before-status-checks", "1", "--slurm-keep-successful-logs",
                "--set-resources", "run:cpus_per_task=1", "run:mem_mb=1500", *resources,
            ],
            cwd=ROOT, env=self.cluster.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=hear_ctrl_c,
        )  # fmt: skip

    def end(self, batch):
        output = batch.communicate(timeout=3600)[0]
        return batch.returncode, output

    def jobs_of(self, run, *states):
        """The jobs of a run, in order; only those in one of `states`, if any is given."""
        jobs = [job for job in self.cluster.jobs() if run in job["Comment"]]
        return [job for job in jobs if not states or job["JobState"] in states]

    def run_at_work(self):
        """The name of the run that has begun in a job that goes on."""
        for log in self.folder.glob("*/log.txt"):
            if self.jobs_of(log.parent.name, "RUNNING"):
                return log.parent.name

    def log(self, name):
        return (self.folder / name / "log.txt").read_text()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    if os.geteuid():
        pytest.skip("Slurm's daemons need root")
    return Story(tmp_path_factory.mktemp("slurm_story"))


@pytest.mark.slow
def test_slurm_does_every_run_on_a_gpu(story):
    assert story.status == 0 and "2 of 2 runs finished" in story.output, story.output
    assert sorted(story.records) == sorted([story.cancelled, story.going_on])
    done = [job for job in story.jobs if job["JobState"] == "COMPLETED"]
    assert len(done) == 2 and all(job["TresPerJob"] == "gres:gpu:1" for job in story.jobs)
    first, second = sorted(done, key=lambda job: job["StartTime"])
    assert first["EndTime"] <= second["StartTime"]  # there is one GPU


@pytest.mark.slow
def test_a_cancelled_job_is_submitted_again(story):
    states = [job["JobState"] for job in story.jobs if story.cancelled in job["Comment"]]
    assert states == ["CANCELLED", "FAILED", "COMPLETED"]
    assert story.log(story.cancelled).count("starts with") == 2


@pytest.mark.slow
def test_jobs_of_a_killed_batch_go_on_and_are_not_disturbed(story):
    assert f"jobs of an earlier batch are still at work and are waited for: {story.going_on}\n" in story.output
    (job,) = (job for job in story.jobs if story.going_on in job["Comment"])
    assert job["JobState"] == "COMPLETED"
    assert story.log(story.going_on).count("starts with") == 1


@pytest.mark.slow
def test_waiting_jobs_of_a_killed_batch_give_way_to_the_next(story):
    _, waiting, _ = (job["JobId"] for job in story.jobs if story.cancelled in job["Comment"])
    (log,) = (story.folder / ".snakemake" / "slurm_logs").rglob(f"{waiting}.log")
    assert "a newer batch has taken over the runs of the one that this job belongs to" in log.read_text()


@pytest.mark.slow
def test_a_finished_batch_submits_nothing(story):
    assert story.last_status == 0 and "2 of 2 runs finished" in story.last_output
    assert (story.last_jobs, story.last_records) == (story.jobs, story.records)


@pytest.mark.slow
def test_what_slurm_refuses_is_told_with_its_reason(story):
    assert story.refused_status == 1 and "0 of 1 runs finished" in story.refused_output
    assert "  sbatch: error: Batch job submission failed: Invalid partition name specified\n" in story.refused_output


@pytest.mark.slow
def test_a_batch_stopped_from_the_keyboard_cancels_its_jobs(story):
    assert story.interrupted_status == 1 and "stopping; the same command resumes the batch" in story.interrupted_output
    assert not (story.folder / story.interrupted / "record.json").exists()


# --- Kubernetes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kubernetes_does_a_run_and_makes_a_deleted_job_again(tmp_path):
    runs, grid = tmp_path / "runs", tmp_path / "grid.yaml"
    grid.write_text(GRID)
    kubernetes = Kubernetes(tmp_path / "kubernetes")

    def start():
        return subprocess.Popen(
            [
                sys.executable, str(EXPERIMENTS / "batch.py"), "more", "--grid", str(grid), "--runs", str(runs), "--",
                "--profile", str(PROFILES / "kubernetes"), "--seconds-between-status-checks", "3",
            ],
            cwd=ROOT, env=kubernetes.environment | {"KERAS_BACKEND": "tensorflow"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=hear_ctrl_c,
        )  # fmt: skip

    def attempts(count):
        return [log for log in runs.glob("*/log.txt") if log.read_text().count("starts with") == count]

    batch = again = kernel = None
    try:
        batch = start()
        wait_for(lambda: attempts(1))
        (first,) = kubernetes.processes
        subprocess.run(["kubectl", "delete", "job", first], env=kubernetes.environment, check=True)
        (log,) = wait_for(lambda: attempts(2))
        kernel = wait_for(lambda: kernel_of(log.parent))
        os.kill(kernel, signal.SIGSTOP)  # so that the run does not end before it is interrupted
        # While Snakemake asks how jobs are, it has no list of those to delete.
        wait_for(lambda: 1 < time.monotonic() - kubernetes.asked < 1.5)
        os.kill(batch.pid, signal.SIGINT)  # it alone, as a stop button does
        batch.communicate(timeout=600)
        wait_for(lambda: not kubernetes.processes)  # the batch has deleted its job
        os.kill(kernel, signal.SIGKILL)
        kernel = None
        again = start()
        output = again.communicate(timeout=1800)[0]
    finally:
        put_an_end_to(batch, again, kernel)
        kubernetes.stop()
    assert again.returncode == 0 and "1 of 1 runs finished" in output, output
    assert list(finished(runs)) == [attempts(3)[0].parent.name]
    *_, manifest = kubernetes.manifests.values()
    assert len(kubernetes.manifests) == 3 and manifest["metadata"]["annotations"]["run"] in finished(runs)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16000M"},
        "limits": {"memory": "16000M", "nvidia.com/gpu": "1"},
    }
    volumes = {volume["name"]: volume.get("persistentVolumeClaim", volume) for volume in pod["volumes"]}
    kept, shared = ((volumes[mount["name"]], mount["mountPath"]) for mount in container["volumeMounts"])
    assert kept == ({"claimName": "ranet"}, "/ranet")
    assert shared[0]["emptyDir"] == {"medium": "Memory"} and shared[1] == "/dev/shm"
