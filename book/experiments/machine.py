"""How much of this machine a process may use (in a container or a job, less than there is); starting a kernel on it."""

import contextlib
import os
from pathlib import Path

#: What Linux lets a container or a job use, and which part of it is this process's.
LIMITS, GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def count_cores():
    """How many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _limits("cpu.max")
    return max(1, min(cores, quota[0] // quota[1])) if quota else cores


def count_memory():
    """How many bytes of memory this process may use; on Windows, which is not asked, 8 GiB."""
    try:
        fitted = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        fitted = 2**33
    return min([fitted, *_limits("memory.max")])


def started(work):
    """What `work()` returns; it is done again where its kernel ended at once: another process had taken its port."""
    for left in (2, 1, 0):
        try:
            return work()
        except RuntimeError as error:
            if not left or "Kernel died before replying" not in str(error):
                raise


def _limits(name):
    """The numbers in the file `name` of the strictest group of `LIMITS` around this process; [] without a limit."""
    own, found = LIMITS, []
    with contextlib.suppress(OSError):
        own = LIMITS / GROUP.read_text(encoding="utf-8").rpartition("::/")[2].strip()
    for group in (own, *own.parents):
        if group.is_relative_to(LIMITS):
            with contextlib.suppress(OSError, ValueError):  # no such group, or one whose limit is "max"
                found.append([int(word) for word in (group / name).read_text().split()])
    return min(found, key=lambda limit: limit[0] / limit[-1] if limit[1:] else limit[0], default=[])
