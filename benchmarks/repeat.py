"""Train a few steps again and again from the same weights, and count how many different results come out.

    python benchmarks/repeat.py --output book/results/speed/NAME.json

With TensorFlow's graph optimiser, without it, and with its remapper alone, as `training.fit` trains, while a second
process keeps the processor busy, so that operations end in another order each time. Anything but one result means that
a seed does not fix a run. In float32 the last two must even agree, since there the remapper changes no bit; in 16 bits
it joins convolution and sum, which are then rounded once in place of twice.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import multiprocessing
from pathlib import Path

GRAPHS = ("whole optimiser", "as written", "remapper alone")


def results(graph, network, precision, repetitions, batch_size, steps=3):
    """How often each result came out: a Counter of digests of all weights after `steps` steps."""
    import keras
    import numpy as np
    import tensorflow as tf

    from ranet_lib import datasets, models, training

    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(0)
    model = models.create_model(network)
    recipe = training.recipe("full", batch_size=batch_size, precision=precision)
    batches = training.Batches(datasets.load_dataset("cluttered_digits"), recipe)
    training.compile_model(model, recipe, 1000)
    training.devices.build_ahead(model, batches)
    data = [batches[index] for index in range(steps)]
    variables = model.weights + model.optimizer.variables
    start, found = [keras.ops.convert_to_numpy(each) for each in variables], collections.Counter()
    if graph == "as written":
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    with training.devices.remapper_alone() if graph == "remapper alone" else contextlib.nullcontext():
        for _ in range(repetitions):
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
            for images, labels in data:
                model.train_on_batch(images, labels)
            arrays = b"".join(np.ascontiguousarray(weight).tobytes() for weight in model.get_weights())
            found[hashlib.sha256(arrays).hexdigest()] += 1
    return found


def _busy():
    while True:
        sum(range(100_000))


def main():
    import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="attention_tiny")
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"], metavar="NAME")
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    spawn, found = multiprocessing.get_context("spawn"), []
    busy = spawn.Process(target=_busy, daemon=True)
    busy.start()
    for precision, graph in itertools.product(asked.precisions, GRAPHS):
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as process:  # a new one each time
            arguments = graph, asked.network, precision, asked.repetitions, asked.batch_size
            digests = process.submit(results, *arguments).result()
        point = {"network": asked.network, "precision": precision, "graph": graph}
        counts = sorted(digests.values(), reverse=True)
        found.append(point | {"counts": counts, "most_frequent": max(digests, key=digests.get)[:16]})
        print(f"{precision}, {graph}: {len(digests)} results, {counts}", flush=True)
    busy.terminate()
    if asked.output:
        run.write(asked.output, asked.repetitions, None, found)


if __name__ == "__main__":
    main()
