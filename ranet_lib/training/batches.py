"""Training batches that depend on nothing but seed, epoch and position."""

import keras
import numpy as np

from ranet_lib import datasets


class Batches(keras.utils.PyDataset):
    """Shuffled, augmented, prepared training batches of `dataset` by `recipe`.

    Each item is a pair of images, float32 `(batch_size, height, width, 3)`, and labels `(batch_size,)`. Order and
    augmentation follow from `seed` and the `epoch`, from 0. Fewer images than one batch takes are a ValueError.
    """

    def __init__(self, dataset, recipe, seed=0, epoch=0):
        super().__init__()
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self.chosen = np.arange(len(dataset.train))
        if recipe.train_images is not None and recipe.train_images < len(dataset.train):
            self.chosen = np.random.default_rng((seed, 0)).permutation(self.chosen)[: recipe.train_images]
        if len(self.chosen) < recipe.batch_size:
            there = f"{len(self.chosen)} training images of {dataset.name}"
            raise ValueError(f"batch_size {recipe.batch_size} is more than the {there}")
        self.start_epoch(epoch)

    def start_epoch(self, epoch):
        """Make `epoch` (from 0) the one whose batches are given out."""
        self.epoch = epoch
        self.order = np.random.default_rng((self.seed, 1, epoch)).permutation(self.chosen)

    def __len__(self):
        return len(self.order) // self.recipe.batch_size

    def __getitem__(self, index):
        rows, rng = self.draw(index)
        images = self.dataset.prepare(self.dataset.train.images[rows])
        if self.recipe.augmentation == "pad_crop_mirror":
            images = datasets.augment(images, rng, self.recipe.crop_padding, mirror=self.dataset.mirrors)
        elif self.recipe.augmentation == "rotate_shift_mirror":
            images = datasets.rotate_shift_mirror(images, rng, mirror=self.dataset.mirrors)
        return images, self.dataset.train.labels[rows]

    def draw(self, index):
        """Which training images batch `index` has, whole numbers `(batch_size,)`, and the generator to augment them."""
        size, index = self.recipe.batch_size, range(len(self))[index]
        return self.order[index * size : (index + 1) * size], np.random.default_rng((self.seed, 2, self.epoch, index))
