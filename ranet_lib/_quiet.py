"""TensorFlow imported without what it logs for information while its libraries load.

They write it before they read TF_CPP_MIN_LOG_LEVEL. Another process, which outlives a crash, leaves it out of stderr.
"""

import os
import sys
from contextlib import contextmanager, nullcontext, suppress
from importlib.machinery import PathFinder

# "I0000 00:00:1700000000.000000 123 port.cc:153] ...", in older versions "2026-01-31 12:00:00.000000: I ...".
INFORMATION = rb"I\d{4} \d\d:|\d{4}-\d\d-\d\d [\d:.]+: I |WARNING: All log messages before absl::"


class QuietTensorFlow:
    """A finder of modules, for `sys.meta_path`: it finds TensorFlow, and has it imported quietly."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == "tensorflow" else None
        if spec is not None:
            load = spec.loader.exec_module
            def load_quietly(module):
                with without_information():
                    load(module)
            spec.loader.exec_module = load_quietly
        return spec


@contextmanager
def without_information():
    """Leave lines for information out of what is written on stderr meanwhile, past Python too."""
    import subprocess  # not above: `import ranet_lib` alone does not wait for it
    try:
        stderr = os.dup(2)
        command = [sys.executable, "-I", "-S", __file__]
        passing_on = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, stderr=subprocess.DEVNULL)
    except OSError:  # no stderr, or no other process: then nothing is left out
        yield
        return
    os.dup2(passing_on.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        passing_on.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a process begun meanwhile still writes there
            passing_on.wait(10)


@contextmanager
def logged_from(level, scope=None):
    """The context `scope`, in which TensorFlow's Python logs only what is of this `level` or above."""
    import logging
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(level)
    try:
        with scope or nullcontext():
            yield
    finally:
        logger.setLevel(before)


if __name__ == "__main__":  # the other process
    import re
    for line in sys.stdin.buffer:
        if not re.match(INFORMATION, line):
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
