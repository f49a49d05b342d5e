"""A Slurm cluster of one node, this machine: munged, slurmctld and slurmd, with files and ports of their own."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time

from programs import find_programs

PACKAGES = ["munge", "slurm-client", "slurmctld", "slurmd"]

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# Without cgroups, which a container may not give.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# As quick as Slurm can be.
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
KillWait=2
# A busy machine may take long to answer, and to begin a job.
MessageTimeout=100
BatchStartTimeout=600
# Finished jobs are remembered for an hour.
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} RealMemory={memory} Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES
"""


class Cluster:
    """Started when made; `environment` has what Slurm's commands need to find it, and `stop` ends it.

    Args:
        folder: where all its files go.
        gpus: how many GPUs its node claims to have, at most 3: Slurm hands out any device file, and is given /dev/null.
    """

    def __init__(self, folder, gpus=1):
        find_programs(["munged", "sbatch", "slurmctld", "slurmd"], PACKAGES)
        self.folder = folder
        self.processes = []
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir(parents=True)
        ports = free_ports(2)
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host, folder=folder, ports=ports, processors=os.cpu_count(), memory=memory, gpus=gpus
            )
        )
        devices = ["/dev/null", "/dev/zero", "/dev/full"][:gpus]
        (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
        # Snakemake's plugin takes SLURM_CONF from the environment of a job's step, so srun has to bring its own.
        self._put_before("srun", f'SLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"')
        self.asked = folder / "asked"  # touched whenever Snakemake has asked how its jobs are
        self._put_before("squeue", f'{shutil.which("squeue")} "$@"; status=$?; touch {self.asked}; exit $status')
        path = f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.environment["RANET_ALLOW_CPU"] = "1"  # its GPU is one in name only

        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {name: folder / f"munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")}
        try:
            self._start(
                "munged", "--foreground", "--force", f"--key-file={key}",
                *(f"--{name}={path}" for name, path in files.items()),
            )  # fmt: skip
            self._wait(files["socket"].exists)
            self._start("slurmctld", "-D")
            self._start("slurmd", "-D", "-N", host)
            self._wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False))
        except BaseException:
            self.stop()
            raise

    def _put_before(self, name, commands):
        """Have `commands` of the shell done where one of Slurm's commands is called."""
        instead = self.folder / "bin" / name
        instead.write_text(f"#!/bin/sh\n{commands}\n")
        instead.chmod(0o755)

    def _start(self, *words):
        with open(self.folder / f"{words[0]}.out", "wb") as log:
            self.processes.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log))

    def _wait(self, condition, seconds=600):
        until = time.monotonic() + seconds
        while not condition():
            words = "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.out")))
            assert time.monotonic() < until, f"Slurm did not start:\n{words}"
            time.sleep(0.2)

    def run(self, *words, check=True):
        """The output of one of Slurm's commands."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def jobs(self):
        """All jobs there have been, in order, each a dict of what `scontrol show job` tells."""
        text = self.run("scontrol", "--oneliner", "show", "job")
        lines = [line for line in text.splitlines() if line.startswith("JobId=")]
        return [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in lines]

    def stop(self):
        try:
            if self.processes[1:]:
                self.run("scancel", "--user=root", check=False)
                self._wait(lambda: not self.run("squeue", "--noheader", check=False))
        finally:
            for process in reversed(self.processes):
                process.terminate()
            for process in self.processes:
                process.wait(timeout=600)


def free_ports(count):
    """Ports of this machine that nothing listens on, below those that the system hands out to whoever asks."""
    ports = set()
    while len(ports) < count:
        with socket.socket() as one, contextlib.suppress(OSError):
            # Not by `random` itself: conftest.py seeds it for every test alike.
            one.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
            ports.add(one.getsockname()[1])
    return sorted(ports)
