"""Measure where the time of a training step goes: how long each kind of TensorFlow's operations takes.

    python benchmarks/operations.py --output book/results/speed/NAME.json

Attention-56 is trained as `training.fit` trains it, with one operation at a time, so that the times add up to the step.
"""

import argparse
import collections
import concurrent.futures
import multiprocessing
import os
import tempfile
import time
from pathlib import Path


def measure(precision, batch_size, steps):
    """Seconds of a step by kind of operation, a dict, and of the whole step."""
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    import keras
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    from ranet_lib import datasets, models, training

    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(0)
    model = models.create_model("attention_56")
    recipe = training.recipe("full", batch_size=batch_size, precision=precision)
    batches = training.Batches(datasets.load_dataset("cluttered_digits"), recipe)
    training.compile_model(model, recipe, 1000)
    training.devices.build_ahead(model, batches)
    images, labels = (tf.constant(each) for each in batches[0])
    step = tf.function(lambda: model.train_step((images, labels)))

    def take(count):
        began = time.perf_counter()
        for _ in range(count):
            loss = step()["loss"]
        float(loss)
        return (time.perf_counter() - began) / count

    with training.devices.remapper_alone(), tempfile.TemporaryDirectory() as folder:
        take(3)
        whole = take(steps)
        tf.profiler.experimental.start(folder)
        take(steps)
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    seconds = collections.Counter()
    for plane in space.planes:
        names = {number: metadata.name for number, metadata in plane.event_metadata.items()}
        for event in (event for line in plane.lines for event in line.events):
            name = names[event.metadata_id]
            node, is_operation, kind = name.rpartition(":")
            if is_operation and kind.isidentifier() and "::" not in name:  # not the functions that start operations
                seconds[kind.replace("_MklNative", "").replace("_Mkl", "")] += event.duration_ps / 1e12 / steps
    return dict(seconds.most_common()), whole


def main():
    import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", choices=run.PRECISIONS, default=["float32", "mixed_bfloat16"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    results = []
    for precision in asked.precisions:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds, whole = process.submit(measure, precision, asked.batch_size, asked.steps).result()
        print(f"{precision}: a step takes {1000 * whole:.0f} ms", flush=True)
        for kind, value in list(seconds.items())[:20]:
            print(f"  {kind:28} {1000 * value:6.1f} ms")
        rounded = {kind: float(f"{value:.3g}") for kind, value in seconds.items() if value > 1e-4}
        results.append({
            "network": "attention_56", "precision": precision, "batch_size": asked.batch_size,
            "seconds_per_step": float(f"{whole:.4g}"), "seconds": rounded,
        })  # fmt: skip
    if asked.output:
        run.write(asked.output, asked.steps, None, results)


if __name__ == "__main__":
    main()
