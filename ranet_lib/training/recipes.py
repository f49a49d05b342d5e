"""A recipe: every number of a training run."""

import dataclasses

from ranet_lib import checks

SCHEDULES = ("steps", "one_cycle", "plateau", "constant")
OPTIMIZERS = ("sgd", "adam")
AUGMENTATIONS = ("pad_crop_mirror", "rotate_shift_mirror", "none")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every choice of a training run apart from the network, the data and the seed; a ValueError names a wrong one.

    `profile` is its name in a record. `epochs` are at least 1, a `batch_size` is at least 2. `learning_rate` is the
    highest of the `schedule`: "steps" divides it by 10 at 40% and at 60% of the steps (the paper's 64k and 96k of
    160k); "one_cycle" climbs for the first fifth of the steps and falls along a cosine to 0; "plateau" takes a quarter
    off after ten epochs without a better validation error and stops after twenty; "constant".

    `optimizer` is "sgd" (Nesterov momentum 0.9), to whose gradient `weight_decay` is added, as in the paper, or "adam",
    where it is decoupled (AdamW). `augmentation` is "pad_crop_mirror" (the paper's, with `crop_padding` pixels on each
    side), "rotate_shift_mirror" (the student project's) or "none". The seed chooses at most so many `train_images`;
    None takes all. `label_smoothing`, from 0 and below 1, is the share of each label that is spread over all classes
    (Szegedy et al. 2016). `precision` is "float32", "mixed_float16" or "mixed_bfloat16".
    """

    profile: str
    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    schedule: str = "steps"
    augmentation: str = "pad_crop_mirror"
    crop_padding: int = 4
    train_images: int | None = None
    label_smoothing: float = 0.0
    precision: str = "float32"

    def __post_init__(self):
        plain = {  # a record is JSON, which has no numbers of NumPy
            "epochs": checks.whole("epochs", self.epochs, 1, 1_000_000),
            "batch_size": checks.whole("batch_size", self.batch_size, 2),
            "crop_padding": checks.whole("crop_padding", self.crop_padding, 0),
            "learning_rate": checks.number("learning_rate", self.learning_rate, above=0),
            "weight_decay": checks.number("weight_decay", self.weight_decay, least=0),
            "label_smoothing": checks.number("label_smoothing", self.label_smoothing, least=0, below=1),
        }
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augmentation", AUGMENTATIONS),
                              ("precision", PRECISIONS)):  # fmt: skip
            checks.choice(name, getattr(self, name), allowed)
        if self.train_images is not None:
            plain["train_images"] = checks.whole("train_images", self.train_images)
            if self.batch_size > (most := self.train_images):
                raise ValueError(f"batch_size must be at most train_images = {most}; received {self.batch_size}")
        vars(self).update(plain)


_CYCLE = {"weight_decay": 5e-4, "schedule": "one_cycle"}
_PROFILES = {
    "smoke": Recipe("smoke", epochs=2, schedule="one_cycle", train_images=1_600),
    # Crops would need more epochs. SGD reached half the error, but its mask was low on the digit; Adam's is high there,
    # as a newcomer expects.
    "first": Recipe("first", epochs=10, learning_rate=0.005, optimizer="adam", weight_decay=0.05, schedule="one_cycle",
                    augmentation="none", train_images=10_000),
    # Few epochs leave no time to overfit: half the paper's crop, and one cycle of a high learning rate.
    "laptop": Recipe("laptop", epochs=6, batch_size=128, learning_rate=0.4, crop_padding=2, **_CYCLE),
    "study": Recipe("study", epochs=4, learning_rate=0.2, crop_padding=2, train_images=10_000, **_CYCLE),
    "memorise": Recipe("memorise", epochs=40, schedule="one_cycle", augmentation="none", train_images=10_000),
    "evidence": Recipe("evidence", epochs=12, precision="mixed_bfloat16", **_CYCLE),
    "weights": Recipe("weights", epochs=60, label_smoothing=0.1, precision="mixed_bfloat16", **_CYCLE),
    # The paper's 160,000 steps: 205 epochs of CIFAR's 50,000 images, and 228 of the 45,000 that validation leaves.
    "full": Recipe("full", epochs=228),
    "source": Recipe("source", epochs=100, learning_rate=1e-4, optimizer="adam", weight_decay=0.0, schedule="plateau",
                     augmentation="rotate_shift_mirror")}  # fmt: skip


def list_profiles():
    """The names that `recipe` knows, in the order in which it describes them."""
    return list(_PROFILES)


def recipe(profile, **changes):
    """The `Recipe` of a `profile`, with `changes`: fields to set otherwise; None leaves the profile's own value.

    `smoke` takes seconds and shows that everything works; `first` learns the embedded digits in under two minutes on
    two cores; `laptop` takes minutes there; `study` is for many runs side by side; `memorise` fits wrong labels too;
    `evidence` makes the paper's tables in short runs; `weights` is for networks that ship; `full` is the
    paper's recipe (section 4.1), for a GPU; `source` is the student project's. A wrong name is a ValueError.

    Example:
        >>> short = training.recipe("laptop", epochs=1)
        >>> short.profile, short.epochs, short.batch_size
        ('laptop', 1, 128)
    """
    checks.choice("profile", profile, tuple(_PROFILES))
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in fields:
            raise ValueError(f"unknown field {name!r} of a recipe; the fields are: {', '.join(fields[1:])}")
    return dataclasses.replace(_PROFILES[profile], **{k: v for k, v in changes.items() if v is not None})
