"""The line that shows how far a run is."""

import sys
import time

import keras


class Progress(keras.callbacks.Callback):
    """One line for `epochs` of so many `steps`, which keeps itself up to date `every` so many seconds."""

    def __init__(self, epochs, steps, every=1.0):
        super().__init__()
        self.epochs, self.steps, self.every = epochs, steps, every
        self.handle, self.shown, self.last_text = None, 0.0, ""
        self.async_safe = True  # for Keras: a thread reads the numbers of each step, so that training need not wait

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.started, self.ended = epoch, time.perf_counter(), None

    def on_train_batch_end(self, batch, logs=None):
        if self.ended is None or batch >= self.ended[0]:  # threads may overtake each other
            self.ended = batch + 1, logs

    def on_train_batch_begin(self, batch, logs=None):
        now = time.perf_counter()
        if self.ended is None or now - self.shown < self.every:
            return
        (done, logs), width = self.ended, 24
        filled = round(width * done / self.steps)
        left = (now - self.started) / done * (self.steps * (self.epochs - self.epoch) - done)
        self._show(
            f"epoch {self.epoch + 1}/{self.epochs} [{'#' * filled}{'.' * (width - filled)}] {done}/{self.steps}"
            f"  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.3f}  about {duration(left)} left")  # fmt: skip

    on_epoch_end = on_train_batch_begin

    def on_train_end(self, logs=None):
        self._show(f"trained to epoch {self.epoch + 1} of {self.epochs}", end="\n")

    def _show(self, text, end=""):
        if "ipykernel" not in sys.modules:
            print("\r" + text.ljust(len(self.last_text)), end=end, flush=True)
        elif self.handle:
            self.handle.update({"text/plain": text}, raw=True)
        else:
            from IPython.display import display
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        self.last_text, self.shown = text, time.perf_counter()


def duration(seconds):
    """`seconds` in words.

    Example:
        >>> training.duration(3725)
        '1 h 2 min'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
