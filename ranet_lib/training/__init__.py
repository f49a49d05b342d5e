"""Training: what goes into Keras's `compile` and `fit`, so that a run can be repeated and survives being killed."""

from ranet_lib.training.batches import Batches
from ranet_lib.training.checkpoint import Checkpoint, best_epoch
from ranet_lib.training.devices import check_devices
from ranet_lib.training.evaluation import evaluate, test_errors
from ranet_lib.training.fitting import Diverged, drop_checkpoint, finish, fit, write_history
from ranet_lib.training.optimizer import SGD, compile_model, learning_rate
from ranet_lib.training.progress import Progress, duration
from ranet_lib.training.recipes import AUGMENTATIONS, OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe, list_profiles, recipe

__all__ = [
    "AUGMENTATIONS", "OPTIMIZERS", "PRECISIONS", "SCHEDULES", "SGD", "Batches", "Checkpoint", "Diverged", "Progress",
    "Recipe", "best_epoch", "check_devices", "compile_model", "drop_checkpoint", "duration", "evaluate", "finish",
    "fit", "learning_rate", "list_profiles", "recipe", "test_errors", "write_history"]  # fmt: skip
