"""One run of a batch: train.ipynb by papermill, in a process that ends when the batch ends.

    python book/experiments/run.py FOLDER PARAMETERS

FOLDER gets everything the run leaves: the executed notebook of this attempt (`train.ipynb`) and of earlier ones
(`attempt-1.ipynb`, ...), the output of all attempts (`log.txt`) and, last of all, `record.json`. PARAMETERS are those
of train.ipynb, as JSON. The exit status is 0 exactly when there is a record. While another process works on FOLDER, as
the jobs of a killed batch do on a cluster, this one waits; then it does what is left.
"""

import datetime
import json
import os
import sys
import time
import traceback
from pathlib import Path

import processes

if __name__ == "__main__":
    processes.end_with_parent()  # at once: what comes next takes seconds

import papermill  # noqa: E402
from machine import started  # noqa: E402

TRAIN = Path(__file__).resolve().parent / "train.ipynb"


def main(folder, parameters):
    folder = Path(folder).resolve()
    if (held := processes.lock(folder / ".lock")) is None:
        print(f"{folder} waits, because another process works on it", flush=True)
        while (held := processes.lock(folder / ".lock")) is None:
            time.sleep(1)
    if (folder / "record.json").exists():
        held.close()
        return 0
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):  # of the kernel too, which inherits them
            os.dup2(log.fileno(), stream.fileno())
        tell("starts with", parameters)
        keep(folder / "train.ipynb")
        try:
            parameters = json.loads(parameters)
            gpus = processes.take_gpus(parameters.get("devices") or 1)
            if processes.list_gpus() and "RANET_ALLOW_CPU" not in os.environ and processes.device().startswith("CPU"):
                why = f"this job has a GPU that Keras's backend cannot use; {processes.ADVICE}"
                raise RuntimeError(f"{why}, RANET_ALLOW_CPU=1 trains on the processor")
            # A kernel of this environment, also where JUPYTER_PATH or the home folder has another's.
            places = [os.path.join(sys.prefix, "share", "jupyter"), os.environ.get("JUPYTER_PATH")]
            os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, places))
            patient = {"start_timeout": 600, "iopub_timeout": 600}  # seconds: a busy machine needs more than 60 and 4
            notebooks = as_it_is(TRAIN), as_it_is(folder / "train.ipynb")
            parameters |= {"output_dir": str(folder)}
            started(lambda: papermill.execute_notebook(*notebooks, parameters, progress_bar=False, **patient))
            for gpu in gpus:
                gpu.close()
        except Exception:
            traceback.print_exc()
        try:
            json.loads((folder / "record.json").read_text(encoding="utf-8"))  # written whole, and valid, or not at all
        except (OSError, ValueError) as error:
            tell("ended without a record:", error)
            return 1
        tell("ended with a record")
        return 0


def as_it_is(path):
    """A path for papermill, which takes what stands in braces for the name of a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def keep(executed):
    """Make room for the executed notebook of this attempt beside those of earlier ones."""
    if executed.exists():
        number = 1
        while (kept := executed.with_name(f"attempt-{number}.ipynb")).exists():
            number += 1
        executed.rename(kept)


def tell(*words):
    print(f"[{datetime.datetime.now().isoformat(' ', 'milliseconds')}]", *words, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
