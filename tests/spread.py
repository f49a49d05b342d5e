"""A process of its own: the same run on one and on several devices, with processors in place of GPUs.

    python spread.py BACKEND NETWORK FOLDER DEVICES...

NETWORK is a name that `create_model` knows, or "small". For each number of devices, FOLDER/DEVICES has what the run has
left: `history.csv`, `model.weights.h5`, and `weights.npz` with each weight by its path and the test error. DEVICES may
also be "killed": a run on two devices that is killed in its second epoch and started again.
"""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest


def data(train=320, others=100):
    """The embedded images, cut to so many for training, and so many for validation and for testing."""
    from ranet_lib import datasets

    full = datasets.load_dataset("cluttered_digits")
    counts = {"train": train, "validation": others, "test": others}
    return dataclasses.replace(full, **{name: getattr(full, name).take(slice(n)) for name, n in counts.items()})


def create(name):
    import keras

    from ranet_lib import blocks, models

    keras.utils.set_random_seed(0)
    if name != "small":
        return models.create_model(name)
    return keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.AveragePooling2D(2),
        blocks.ResidualUnit(16, name="unit"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, name="head"),
    ], name="small")  # fmt: skip


def main(name, folder, counts):
    import keras

    from ranet_lib import masks, training

    class Killed(Exception):
        pass

    class KillInSecondEpoch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (1, 3):
                raise Killed

    # A low rate, because each step multiplies what the rounding of another order of sums has made different.
    recipe = training.recipe("smoke", batch_size=32, learning_rate=0.005, train_images=320)
    dataset = data()

    def run(to, devices, callbacks=()):
        network, callbacks = create(name), list(callbacks)
        if masks.attention_modules(network):  # three images, which the devices do not divide
            callbacks += [masks.MaskHistory(network, dataset.prepare(dataset.test.images[:3]))]
        history = training.fit(
            network, dataset, recipe, folder / to, progress=False, callbacks=callbacks, devices=devices
        )
        for watch in callbacks[-1:] if masks.attention_modules(network) else ():
            for seen, now in zip(watch.epochs[-1], masks.attention_masks(network, watch._images), strict=True):
                np.testing.assert_allclose(seen, now, rtol=1e-5)
        test = training.test_errors(network, dataset, history, folder / to)
        training.finish(network, history, folder / to)
        weights = {weight.path: keras.ops.convert_to_numpy(weight) for weight in network.weights}
        np.savez(folder / to / "weights.npz", test_error=test["last_epoch"]["error"], **weights)

    # On several devices a network is made again, which must not be in the precision of another one.
    network = create(name)
    for policy, precision in (("mixed_bfloat16", "mixed_bfloat16"), ("mixed_bfloat16", "float32")):
        keras.config.set_dtype_policy(policy)
        with pytest.raises(ValueError, match="is made again for each device: set_dtype_policy..float32.. before fit"):
            training.fit(network, dataset, dataclasses.replace(recipe, precision=precision), devices=2)
        keras.config.set_dtype_policy("float32")
    for count in counts:
        if count != "killed":
            run(count, int(count))
            continue
        try:
            run("killed", 2, [KillInSecondEpoch()])
        except Killed:
            run("killed", 2)


if __name__ == "__main__":
    backend, name, folder, *counts = sys.argv[1:]
    os.environ["KERAS_BACKEND"] = backend
    most = max(int(count) for count in counts if count != "killed")
    if backend == "tensorflow":
        import tensorflow as tf

        processor = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * most)
    else:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={most}"
    main(name, Path(folder), counts)
