"""Processes and locks of a batch, which must stay correct when any process is killed."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import fcntl
except ImportError:
    sys.exit("batches need Linux or macOS; on Windows, run this in WSL, or single runs by python -m ranet_lib train")


#: How many threads TensorFlow, and what goes by OpenMP, starts for one operation, and how many operations run at once.
THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTEROP_THREADS")

ADVICE = "`make install BACKEND=cuda` installs a TensorFlow that can"


def lacks_bfloat16(cpuinfo=Path("/proc/cpuinfo")):
    """Whether the processor cannot compute in bfloat16, as Linux lists its instructions: x86 without AVX-512."""
    try:
        listed = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return False
    flags = set(listed[1].split()) if listed else set()
    return "sse2" in flags and not flags & {"avx512bw", "avx_ne_convert"}


def end_with_parent():
    """Have Linux kill this process when its parent ends, however that ends. Elsewhere, do nothing."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def lock(path):
    """An open file that holds the lock of `path` until it is closed or its process ends; None if another holds it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(path, "ab")
        with contextlib.suppress(OSError):  # it is there already, and another user's
            os.chmod(path, 0o666)
    except PermissionError:  # another user's, who shares this machine's GPUs
        file = open(path, "rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def locked(path):
    """Whether another process holds the lock of `path`."""
    if not Path(path).exists():
        return False
    file = lock(path)
    if file:
        file.close()
    return file is None


def list_gpus():
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes; [] without any."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if listed.returncode:
        return []
    slices = re.findall(r"UUID: (MIG-[^)]+)\)", listed.stdout)  # of GPUs that are divided
    return slices or [str(number) for number, _ in enumerate(listed.stdout.splitlines())]


def device():
    """What the backend of Keras computes on. Another process looks, so that this one holds no GPU."""
    code = "from ranet_lib import runs; print(runs.environment()['device'])"
    looked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if looked.returncode:
        raise RuntimeError(f"Keras cannot say what it computes on:\n{looked.stderr.strip()[-500:]}")
    return looked.stdout.splitlines()[-1]


def take_gpus(count):
    """Wait until `count` GPUs have no run on them, then let this process and its children see only those.

    A GPU belongs to one run at a time on the whole machine. Returns the locks, to be kept while the run goes on;
    [] on a machine without GPUs, and in a Slurm job, whose GPUs are its own and may have the same names as another's.
    """
    gpus = list_gpus()
    if not gpus or "SLURM_JOB_ID" in os.environ and len(gpus) == count:
        return []
    if count > len(gpus):
        raise ValueError(f"devices must be at most the {len(gpus)} GPUs of this machine; received {count}")
    folder = Path(tempfile.gettempdir())
    while True:
        taken = {}
        for gpu in gpus:
            if len(taken) < count and (held := lock(folder / f"ranet-gpu-{gpu}.lock")):
                taken[gpu] = held
        if len(taken) == count:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return list(taken.values())
        for held in taken.values():
            held.close()
        time.sleep(1)
