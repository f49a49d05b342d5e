"""Train a few steps again and again from the same weights, and count how many different results come out.

    python benchmarks/repeat.py --output book/results/speed/NAME.json

Once with TensorFlow's graph optimiser and once without it, as `training.fit` trains, while a second process keeps the
processor busy, so that operations end in another order each time. Anything but one result means that a seed does not
fix a run.
"""

import argparse
import collections
import contextlib
import hashlib
import multiprocessing
from pathlib import Path


def results(repetitions, batch_size, optimiser, steps=3):
    """How often each result came out: a Counter of digests of all weights after `steps` steps."""
    import keras
    import numpy as np

    from ranet_lib import datasets, models, training

    keras.utils.set_random_seed(0)
    model = models.create_model("attention_tiny")
    recipe = training.recipe("full", batch_size=batch_size)
    batches = training.Batches(datasets.load_dataset("cluttered_digits"), recipe)
    training.compile_model(model, recipe, 1000)
    training._build_for_training(model, batches)
    data = [batches[index] for index in range(steps)]
    variables = model.weights + model.optimizer.variables
    start, found = [keras.ops.convert_to_numpy(each) for each in variables], collections.Counter()
    with contextlib.nullcontext() if optimiser else training._graph_as_written():
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


def _measure(connection, *arguments):
    connection.send(results(*arguments))


def main():
    import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    processes, found = multiprocessing.get_context("spawn"), []
    busy = processes.Process(target=_busy, daemon=True)
    busy.start()
    for optimiser in (True, False):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=_measure, args=(theirs, asked.repetitions, asked.batch_size, optimiser))
        process.start()
        counts = sorted(ours.recv().values(), reverse=True)
        process.join()
        found.append({"graph_optimiser": optimiser, "counts": counts})
        print(f"graph optimiser {'on ' if optimiser else 'off'}: {len(counts)} results, {counts}", flush=True)
    busy.terminate()
    if asked.output:
        run.write(asked.output, asked.repetitions, None, found)


if __name__ == "__main__":
    main()
