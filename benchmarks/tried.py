"""Measure what each of the library's means of speed gives: training of Attention-56 with one of them taken away.

    python benchmarks/tried.py --output book/results/speed/NAME.json

Each point is a training run by `training.fit` in a process of its own, as in `run.py`, and they take turns.
"""

import argparse
import contextlib
import statistics
from pathlib import Path

#: What can be taken away or put in its place, and what that means.
CHANGES = {
    "nothing": "the library as it is",
    "keras batch normalisation": "Keras's own batch normalisation, several passes over memory",
    "keras operations": "sums, sigmoids and up-sampling as Keras computes them, not those of `ranet_lib.fused`",
    "keras optimiser": "Keras's own SGD: six operations for each weight, and its weight decay",
    "keras input": "batches handed to `fit` as they are: on TensorFlow Keras wraps them into a generator, on JAX each "
    "then travels to the device",
    "graph optimiser": "TensorFlow's graph optimiser (Grappler) left on, not its remapper alone",
    "graph as written": "TensorFlow's graph optimiser off, its remapper too",
    "traced twice": "loss, metrics and optimiser not built ahead: Keras traces the network once more for them",
    "one operation at a time": "TF_NUM_INTEROP_THREADS=1",
    "no oneDNN": "TF_ENABLE_ONEDNN_OPTS=0, TensorFlow's own choice on processors without AVX-512",
    "XLA": "jit_compile=True",
}
ENVIRONMENT = {
    "one operation at a time": {"TF_NUM_INTEROP_THREADS": "1"},
    "no oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}


def make(change):
    """Make a change of `CHANGES` in this process, before a network is built."""
    import keras

    from ranet_lib import fused, training
    from ranet_lib.training import fitting, optimizer

    if change == "keras batch normalisation":
        fused.BatchNormalization.call = keras.layers.BatchNormalization.call
    elif change == "keras operations":
        fused.add, fused.sigmoid = keras.ops.add, keras.ops.sigmoid
        fused.up_sample = lambda features, size, how: keras.ops.image.resize(features, size, interpolation=how)
    elif change == "keras optimiser":
        optimizer.SGD = lambda rate, decay: keras.optimizers.SGD(rate, 0.9, nesterov=True, weight_decay=decay)
    elif change == "keras input":
        training.devices.feed = lambda batches: batches
    elif change == "graph optimiser":
        training.devices.remapper_alone = contextlib.nullcontext
    elif change == "graph as written":
        import tensorflow as tf

        training.devices.remapper_alone = contextlib.nullcontext
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    elif change == "traced twice":
        training.devices.build_ahead = lambda model, batches: None
    elif change == "XLA":
        compile_model = fitting.compile_model

        def with_xla(model, recipe, steps):
            model = compile_model(model, recipe, steps)
            model.jit_compile = True
            return model

        fitting.compile_model = with_xla
    elif change not in CHANGES:
        raise ValueError(f"change must be one of {', '.join(CHANGES)}; received {change!r}")


def main():
    import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="NAME")
    parser.add_argument("--system", choices=("keras-tensorflow", "keras-jax"), default="keras-tensorflow")
    parser.add_argument("--precision", choices=run.PRECISIONS, default="float32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    points = [
        {"system": asked.system, "task": "training", "network": "attention_56",
         "precision": asked.precision, "batch_size": asked.batch_size, "change": change}
        for change in asked.changes
    ]  # fmt: skip
    results = run.compare(points, asked.repeats, asked.seconds, quiet=True)
    for result in results:
        speed = statistics.median(result["images_per_second"])
        print(f"{result['change']:28} {speed:6.0f} images/s, first step after {result['seconds_to_first_step']:.1f} s")
    if asked.output:
        run.write(asked.output, asked.repeats, asked.seconds, results)


if __name__ == "__main__":
    main()
