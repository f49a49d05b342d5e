"""Files that are written whole or not at all."""

import os
from pathlib import Path


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
