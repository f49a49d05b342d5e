"""One run of a batch: papermill on train.ipynb, ended when the batch ends.

    python book/experiments/run.py FOLDER PARAMETERS

FOLDER gets everything the run leaves: the executed notebook of this attempt (`train.ipynb`) and of earlier ones
(`attempt-1.ipynb`, ...), the output of all attempts (`log.txt`) and, last of all, `record.json`. PARAMETERS are those
of train.ipynb, as JSON. The exit status is 0 exactly when there is a record.
"""

import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import processes

from ranet_lib import records

TRAIN = Path(__file__).resolve().parent / "train.ipynb"


def main(folder, parameters):
    parent = os.getppid()
    processes.end_with_parent()
    folder = Path(folder).resolve()
    held = processes.lock(folder / ".lock")
    if held is None:
        sys.exit(f"{folder} is being worked on by another process")
    parameters = json.loads(parameters) | {"output_dir": str(folder)}
    executed = folder / "train.ipynb"
    keep(executed)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        tell(log, f"starts with {json.dumps(parameters)}")
        gpus = processes.take_gpus(parameters.get("devices") or 1)
        process = subprocess.Popen(
            [
                sys.executable, "-m", "papermill", str(TRAIN), str(executed), "--no-progress-bar",
                "--parameters_yaml", json.dumps(parameters),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=processes.end_with_parent,
        )  # fmt: skip
        while process.poll() is None:
            if os.getppid() != parent:  # where the system does not end this process with its parent
                process.kill()
            time.sleep(0.2)
        try:
            records.read_record(folder / "record.json")
        except (OSError, ValueError) as error:
            tell(log, f"ended with status {process.returncode} and no record: {error}")
            return 1
        tell(log, f"ended with status {process.returncode} and a record")
    for gpu in gpus:
        gpu.close()
    return 0


def keep(executed):
    """Make room for the executed notebook of this attempt beside those of earlier ones."""
    if executed.exists():
        number = 1
        while (kept := executed.with_name(f"attempt-{number}.ipynb")).exists():
            number += 1
        executed.rename(kept)


def tell(log, text):
    log.write(f"[{datetime.datetime.now().isoformat(' ', 'milliseconds')}] {text}\n")
    log.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
