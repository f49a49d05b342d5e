"""Files that are written whole or not at all, and folders that one process works in."""

import contextlib
import os
from pathlib import Path

import filelock

from ranet_lib import checks


def replace(path, write, move=os.replace):
    """Write a file whole or not at all: `write(temporary)` first, then one `move` to its place."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "r+b") as file:  # Windows flushes only what it may write to
            os.fsync(file.fileno())
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text, move=os.replace):
    """Write `text` to the file `path` whole or not at all, the same bytes on every system."""
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"), move)


def save_weights(model, path):
    """Save the weights of `model` (and its optimiser's, once trained) at `path`, a `.weights.h5`: all or nothing."""
    replace(path, model.save_weights)


@contextlib.contextmanager
def alone_in(output_dir):
    """Keep other processes from training in `output_dir` meanwhile, a Path here: they would write over its files.

    Another process there, or a finished run, is a ValueError. None stays None: nowhere.
    """
    if output_dir is None:
        yield None
        return
    path = checks.path("output_dir", output_dir) / ".training.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=0):
            try:
                finished = path.with_name("record.json").exists()
                if not finished:
                    for left in path.parent.glob(".*-history.csv"):  # by a process that was killed as it wrote
                        left.unlink()
                    yield path.parent
            finally:
                with contextlib.suppress(PermissionError):  # Windows does not delete an open file
                    path.unlink()
    except filelock.Timeout:
        why = f"another process trains in output_dir {str(output_dir)!r}; wait for it, or choose another folder"
        raise ValueError(why) from None
    if finished:
        raise ValueError(f"output_dir {str(output_dir)!r} holds a finished run (record.json); choose another folder")
