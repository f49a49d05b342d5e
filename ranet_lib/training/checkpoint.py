"""What a killed run needs to go on, written after each epoch."""

import json
import warnings
from pathlib import Path

import keras
from pooch import file_hash

from ranet_lib import files


class Checkpoint(keras.callbacks.Callback):
    """After each epoch, keep what a killed run needs in `folder`: weights, optimiser, `history` and `settings`.

    `settings` tells one run from another. Two epochs' files are never mixed: `state.json` has the checksum of its
    weights, and is renamed into place last. The weights of the lowest validation error are kept, too.
    """

    def __init__(self, folder, settings, history):
        super().__init__()
        self.folder, self.history = Path(folder), history
        self.settings = json.loads(json.dumps(settings))  # as they will be read: tuples become lists
        self.state_path = self.folder / "state.json"

    def restore(self, model):
        """Load the last finished epoch into `model`; return its number, or 0. One of another run is a ValueError."""
        if not self.state_path.exists():
            return 0
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            there, here, history = state["settings"], self.settings, list(state["history"])
            keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
            different = "; ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} now" for key in keys)
            weights, best = self.folder / state["weights"], self.folder / state["best"]
            sound = file_hash(weights) == state["weights_sha256"] and file_hash(best) == state["best_sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            return self._put_aside(f"cannot be read ({error!r})")
        if different:
            advice = "choose another output_dir, or delete that folder to start again"
            raise ValueError(f"{self.folder} holds the checkpoint of another run ({different}); {advice}")
        if not sound:
            return self._put_aside("is damaged: its weights do not match their checksum")
        model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(weights)
        except (OSError, ValueError) as error:  # the library's version may have another network of that name
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{weights} does not hold the weights of this {model.name}: {reason}") from error
        self.history[:] = history
        return len(self.history)

    def _put_aside(self, why):
        number = 1
        while (kept := self.folder.with_name(f"{self.folder.name}-damaged-{number}")).exists():
            number += 1
        self.folder.rename(kept)
        warnings.warn(f"the checkpoint {why}. It is kept as {kept}; the run starts from its first epoch", stacklevel=4)
        return 0

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        best = best_epoch(self.history)
        names = {"weights": f"epoch-{epoch + 1:04d}.weights.h5", "best": f"epoch-{best:04d}.weights.h5"}
        files.save_weights(self.model, self.folder / names["weights"])
        state = {"settings": self.settings, "history": self.history, **names}
        state |= {f"{key}_sha256": file_hash(self.folder / name) for key, name in names.items()}
        files.write_text(self.state_path, json.dumps(state, indent=1))
        for old in self.folder.glob("*.weights.h5"):
            if old.name not in names.values():
                old.unlink()


def best_epoch(history):
    """Number (from 1) of the epoch with the lowest validation error in `history`, the earliest of equal ones."""
    return min(history, key=lambda row: (row["validation_error"], row["epoch"]))["epoch"]
