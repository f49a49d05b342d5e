"""Time each convolution of a network alone, forward and both gradients, as TensorFlow computes it.

    python benchmarks/convolutions.py --output book/results/speed/NAME.json

What a training step takes beyond their sum goes into everything else. Each is the best of several calls on the same
arrays, which the caches may hold.
"""

import argparse
import collections
import time
from pathlib import Path


def shapes(name):
    """The convolutions of a network, a Counter of (side of the input, channels in, channels out, kernel, stride)."""
    import keras

    from ranet_lib import models

    found = collections.Counter()
    call = keras.layers.Conv2D.call

    def count(layer, inputs):
        found[inputs.shape[1], inputs.shape[-1], layer.filters, layer.kernel_size[0], layer.strides[0]] += 1
        return call(layer, inputs)

    model = models.create_model(name)
    keras.layers.Conv2D.call = count
    try:
        model(keras.ops.zeros((2, *model.input_shape[1:])), training=True)  # where each is called as a layer
    finally:
        keras.layers.Conv2D.call = call
    return found


def seconds(size, channels, filters, kernel, stride, batch_size, repeats):
    """The best times of a convolution, of its gradient for the input, and for the kernel."""
    import tensorflow as tf

    out = -(-size // stride)
    x = tf.random.normal((batch_size, size, size, channels))
    weights = tf.random.normal((kernel, kernel, channels, filters))
    gradient = tf.random.normal((batch_size, out, out, filters))
    options = {"strides": [1, stride, stride, 1], "padding": "SAME"}
    steps = (
        lambda: tf.raw_ops.Conv2D(input=x, filter=weights, **options),
        lambda: tf.raw_ops.Conv2DBackpropInput(
            input_sizes=x.shape, filter=weights, out_backprop=gradient, **options
        ),
        lambda: tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=weights.shape, out_backprop=gradient, **options
        ),
    )  # fmt: skip
    best = []
    for step in map(tf.function, steps):
        step()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        best.append(float(f"{min(times):.4g}"))
    return best


def main():
    import run

    import ranet_lib  # noqa: F401  (before TensorFlow: it sets what TensorFlow reads once)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=run.NETWORKS, default="attention_56")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    names, results = ("size", "channels", "filters", "kernel", "stride"), []
    for shape, count in sorted(shapes(asked.network).items(), reverse=True):
        times = seconds(*shape, asked.batch_size, asked.repeats)
        flops = 2 * asked.batch_size * (-(-shape[0] // shape[4])) ** 2 * shape[1] * shape[2] * shape[3] ** 2
        results.append({**dict(zip(names, shape)), "count": count, "flops": flops, "seconds": times})
        said = "  ".join(f"{1000 * each:6.2f} ms {flops / each / 1e9:4.0f} GFLOP/s" for each in times)
        print(f"{count:3} x {shape}: {said}", flush=True)
    total = sum(result["count"] * sum(result["seconds"]) for result in results)
    print(f"{1000 * total:.0f} ms for all: {asked.batch_size / total:.0f} images/s if there were nothing else")
    if asked.output:
        network = {"network": asked.network, "batch_size": asked.batch_size}
        run.write(asked.output, asked.repeats, None, [network | result for result in results])


if __name__ == "__main__":
    main()
