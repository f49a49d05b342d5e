"""One system in a process of its own, measured when asked: started by `run.py`, which says how they are compared.

    python worker.py '{"system": "keras-tensorflow", "network": "attention_56", "task": "training", ...}'

It prints a line of JSON when it is ready, then one for each number of steps that it reads from standard input, and a
last one with its peak memory when there is nothing more to read.
"""

import contextlib
import json
import os
import queue
import re
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import tried

PIPE = os.fdopen(os.dup(1), "w")  # the results; whatever else prints goes to standard error
os.dup2(2, 1)


def tell(**values):
    print(json.dumps(values), file=PIPE, flush=True)


def orders():
    """Numbers of steps, as they come."""
    for line in sys.stdin:
        yield int(line)


def images(asked, count):
    """Real images of the embedded data set and their labels, some more than once; other sizes than 32 are pieced."""
    import numpy as np

    from ranet_lib import datasets

    train = datasets.load_dataset("cluttered_digits").train
    rows, size = np.arange(count) % len(train), asked.get("image_size", 32)
    positions = np.arange(size) % train.images.shape[1]
    return train.images[rows][:, positions][:, :, positions], train.labels[rows]


# --- Keras: `training.fit` as every chapter calls it, and `predict_on_batch` ---------------------------------------


def keras_training(asked):
    import dataclasses

    import keras

    from ranet_lib import datasets, models, training

    class Measure(keras.callbacks.Callback):
        """Holds the training between two steps until the next order comes, and times each order's steps.

        Within an order nothing waits for a step to be over, as nothing does in a real run: what Keras calls at the end
        of a step runs in a thread of its own.
        """

        async_safe = True

        def __init__(self):
            super().__init__()
            self.over, self.steps, self.until = queue.SimpleQueue(), 1, 1
            self.orders = orders()

        def on_train_batch_end(self, batch, logs=None):
            self.over.put(logs["loss"])

        def on_train_batch_begin(self, batch, logs=None):
            if batch < self.until:
                return
            for _ in range(self.steps):
                self.over.get()
            now = time.perf_counter()
            tell(first_step=now - started) if self.until == 1 else tell(seconds=now - self.began)
            self.steps = next(self.orders, None)
            if self.steps is None:
                tell(peak_memory=peak_memory())
                os._exit(0)
            self.until, self.began = batch + self.steps, time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("the epoch ended before the measurement did")

    many = datasets.Split(*images(asked, 30_000 * 32**2 // asked.get("image_size", 32) ** 2))
    data = dataclasses.replace(datasets.load_dataset("cluttered_digits"), train=many)
    recipe = training.recipe("full", batch_size=asked["batch_size"], epochs=1, precision=precision(asked))
    keras.utils.set_random_seed(0)
    tell(imported=time.perf_counter() - BEGAN)
    started = time.perf_counter()
    keras.config.set_dtype_policy(recipe.precision)
    options = {key: asked[key] for key in ("checkpointing",) if key in asked}
    model = models.create_model(asked["network"], input_shape=data.image_shape, **options)
    training.fit(model, data, recipe, progress=False, callbacks=[Measure()])


def precision(asked):
    """The policy of Keras. TF32 is no policy: on a GPU that has it, TensorFlow and JAX use it for float32."""
    return "float32" if asked["precision"] == "tf32" else asked["precision"]


def prepared(asked):
    """One batch as a network takes it: float32 images and their labels."""
    import numpy as np

    x, y = images(asked, asked["batch_size"])
    return (x.astype("float32") - 128) / 64, y.astype(np.int64)


def keras_inference(asked):
    import keras

    from ranet_lib import models

    x, _ = prepared(asked)
    keras.config.set_dtype_policy(precision(asked))
    tell(imported=time.perf_counter() - BEGAN)
    started = time.perf_counter()
    model = models.create_model(asked["network"])
    answer(lambda: model.predict_on_batch(x), started)


def answer(step, started, wait=lambda: None):
    """Take one step, then as many as each order says, and `wait` for the device after the last of them."""
    step()
    wait()
    tell(first_step=time.perf_counter() - started)
    for count in orders():
        began = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        tell(seconds=time.perf_counter() - began)
    tell(peak_memory=peak_memory())


# --- Plain PyTorch -----------------------------------------------------------------------------------------------


def torch_task(asked):
    import plain_torch
    import torch

    from ranet_lib import models

    spec = models.model_spec(asked["network"])
    x, y = prepared(asked)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if asked["precision"] == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    training = asked["task"] == "training"
    torch.manual_seed(0)
    tell(imported=time.perf_counter() - BEGAN)
    started = time.perf_counter()
    layout = torch.contiguous_format if asked["system"] == "torch-eager" else torch.channels_last
    network = plain_torch.network(spec).to(device, memory_format=layout).train(training)
    x = torch.tensor(x).permute(0, 3, 1, 2).to(device, memory_format=layout)
    y = torch.tensor(y).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    )
    call = torch.compile(network) if asked["system"] == "torch-compiled" else network
    half = torch.autocast(device, torch.bfloat16, enabled=asked["precision"] == "mixed_bfloat16")

    def train():
        with half:
            loss = torch.nn.functional.cross_entropy(call(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def infer():
        with torch.inference_mode(), half:
            call(x).cpu()

    answer(train if training else infer, started, torch.cuda.synchronize if device == "cuda" else lambda: None)


# --- An exported network in ONNX Runtime -------------------------------------------------------------------------


def onnxruntime_task(asked):
    import tempfile

    from ranet_lib import models, runs

    x, _ = prepared(asked)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        runs.export_model(models.create_model(asked["network"]), path)
        import onnxruntime

        tell(imported=time.perf_counter() - BEGAN)
        started = time.perf_counter()
        session = onnxruntime.InferenceSession(str(path))
        name = session.get_inputs()[0].name
        answer(lambda: session.run(None, {name: x}), started)


# --- What the machine can do at most ------------------------------------------------------------------------------


def limit_task(asked):
    """A product of large matrices, or a copy of an array too large for any cache; see `LIMITS` of run.py.

    The product is PyTorch's or TensorFlow's, whichever is the quicker: on processors they do not call the same library.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if asked["precision"] == "tf32":
        torch.set_float32_matmul_precision("high")
    kind = "bfloat16" if asked["precision"] == "mixed_bfloat16" else "float32"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if asked["system"] == "matrix-product":
        one, two, product = (torch.ones(4096, 4096, dtype=getattr(torch, kind), device=device) for _ in range(3))
        step = lambda: torch.mm(one, two, out=product)  # noqa: E731
        if device == "cpu" and find_spec("tensorflow"):
            import tensorflow as tf

            left, right = (tf.ones((4096, 4096), kind) for _ in range(2))
            step = min(step, tf.function(lambda: tf.matmul(left, right)), key=seconds)
    else:
        source, target = (torch.ones(2**28, dtype=torch.uint8, device=device) for _ in range(2))
        step = lambda: target.copy_(source)  # noqa: E731
    tell(imported=time.perf_counter() - BEGAN)
    answer(step, time.perf_counter(), wait)


def seconds(step):
    """How long `step` takes when it is not the first, at best of three."""
    step()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return min(times)


def peak_memory():
    """Bytes of memory held at most: of the accelerator where there is one, else of this process."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.max_memory_allocated()
    if "jax" in sys.modules and (held := sys.modules["jax"].local_devices()[0].memory_stats()):
        return held["peak_bytes_in_use"]
    if "tensorflow" in sys.modules and sys.modules["tensorflow"].config.list_physical_devices("GPU"):
        return sys.modules["tensorflow"].config.experimental.get_memory_info("GPU:0")["peak"]
    with contextlib.suppress(OSError):  # on Linux, what the kernel says of resources is also of the parent process
        if found := re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.M):
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    BEGAN = time.perf_counter()
    asked = json.loads(sys.argv[1])
    if asked["system"].startswith("keras-"):
        os.environ["KERAS_BACKEND"] = asked["system"].removeprefix("keras-")
        change = asked.get("change", "nothing")
        os.environ.update(tried.ENVIRONMENT.get(change, {}))
        import ranet_lib  # noqa: F401  (before Keras: it sets what TensorFlow reads once)

        tried.make(change)
        keras_training(asked) if asked["task"] == "training" else keras_inference(asked)
    elif asked["system"] == "onnxruntime":
        onnxruntime_task(asked)
    elif asked["system"] in ("matrix-product", "memory-copy"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        limit_task(asked)
    else:
        os.environ["KERAS_BACKEND"] = "torch"  # nothing of TensorFlow in the memory that is measured
        torch_task(asked)
