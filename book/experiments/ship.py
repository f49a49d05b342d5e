"""Put the weights of a finished run into the package, as `runs.load_pretrained` reads them.

    python book/experiments/ship.py RUN [--data-dir DIR]

RUN is the folder of a run: its record.json and model.weights.h5. The weights are kept in half precision, so they are
tried first: computing as the run did, their error on the test images must be the recorded one, within a tenth of a
point. Their error in float32, in which everyone loads them, is kept with them. Where the package has weights of the
same name, the run with the lower error on validation stays.
"""

import argparse
import json
import sys
from pathlib import Path

import keras

from ranet_lib import datasets, models, runs, training

TOLERANCE = 0.1  # points of error that half precision may cost


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--data-dir", help="folder with CIFAR, as in the experiment notebook")
    parser.add_argument("--folder", type=Path, default=runs.PRETRAINED, help="default: that of the package")
    asked = parser.parse_args(arguments)
    try:
        name = ship(asked.run.expanduser(), asked.data_dir, asked.folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{name}: {(asked.folder / f'{name}.npz').stat().st_size / 1e6:.1f} MB in {asked.folder}")
    return 0


def ship(run, data_dir=None, folder=runs.PRETRAINED):
    """Check a run's weights in half precision and keep them in `folder`; return the name they go by.

    Raises:
        ValueError: a failed run, other data than the run's, weights that half precision changes too much, or better
            ones that are there already.
    """
    if not (run / "record.json").exists():
        raise ValueError(f"RUN must be the folder of a finished run; {str(run)!r} holds no record.json")
    record = runs.read_record(run / "record.json")
    if "failure" in record:
        raise ValueError(f"the run in {run} failed: {record['failure']}")
    described, about = record["model"], record["dataset"]
    there = folder / f"{described['name']}-{about['name']}.json"
    if there.exists():
        kept = json.loads(there.read_text(encoding="utf-8"))["record"]["history"][-1]["validation_error"]
        new = record["history"][-1]["validation_error"]
        if kept <= new:
            raise ValueError(f"{there.stem} stays: its validation error is {kept}%, that of {str(run)!r} is {new}%")
    data = datasets.load_dataset(about["name"], data_dir, seed=record["seed"])
    if data.fingerprint != about["fingerprint"]:
        raise ValueError(f"the run was made on {about['name']} {about['fingerprint']}; here is {data.fingerprint}")
    found = {}
    for precision in (record["recipe"]["precision"], "float32"):
        keras.config.set_dtype_policy(precision)
        model = models.create_model(
            described["name"], described["num_classes"], described["input_shape"], **described["options"]
        )
        model.load_weights(run / "model.weights.h5")
        for weight in model.weights:
            weight.assign(keras.ops.convert_to_numpy(weight).astype("float16").astype("float32"))
        found[precision] = training.evaluate(model, data, data.test)["error"]
        print(f"test error of weights in half precision, computing in {precision}: {found[precision]}%")
    recorded = record["test"]["last_epoch"]["error"]
    if round(abs(found[record["recipe"]["precision"]] - recorded), 4) > TOLERANCE:  # both are of so many digits
        raise ValueError(f"half precision changes the test error from {recorded}% too much: not kept")
    return runs.save_pretrained(model, record, folder, {"float32_error": found["float32"]})


if __name__ == "__main__":
    sys.exit(main())
