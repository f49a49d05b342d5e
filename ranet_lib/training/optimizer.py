"""How the weights move: the optimiser, the learning rate over the steps, the loss."""

import keras
from keras import ops


def compile_model(model, recipe, steps):
    """Compile `model` for `steps` steps by `recipe`, and return it. One of another precision is a ValueError."""
    if (policy := model.dtype_policy.name) != recipe.precision:
        advice = f"call keras.config.set_dtype_policy({recipe.precision!r}) before you make the network"
        raise ValueError(f"{model.name} computes in {policy} and the recipe asks for {recipe.precision}; {advice}")
    rate = learning_rate(recipe, steps)
    if recipe.optimizer == "sgd":
        optimizer = SGD(rate, decay=recipe.weight_decay)
    else:
        optimizer = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
        if recipe.weight_decay:
            optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if recipe.label_smoothing:
        loss = _Smoothed(from_logits=True, label_smoothing=recipe.label_smoothing)
    model.compile(optimizer=optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
    return model


def learning_rate(recipe, steps):
    """The learning rate of a `recipe` over a run of `steps` steps: a Keras schedule, or a number.

    Example:
        >>> rate = training.learning_rate(training.recipe("full"), steps=160_000)
        >>> [round(float(rate(step)), 4) for step in (1, 70_000, 100_000)]
        [0.1, 0.01, 0.001]
    """
    peak, schedules = recipe.learning_rate, keras.optimizers.schedules
    if recipe.schedule == "steps":
        boundaries = [round(0.4 * steps), round(0.6 * steps)]
        return schedules.PiecewiseConstantDecay(boundaries, [peak, peak / 10, peak / 100])
    if recipe.schedule == "one_cycle":
        climb = max(1, round(0.2 * steps))
        return schedules.CosineDecay(peak / 20, max(1, steps - climb), warmup_target=peak, warmup_steps=climb)
    return peak


@keras.saving.register_keras_serializable(package="ranet_lib")
class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with the paper's weight decay: `decay` times the weight is added to its gradient.

    Keras takes its `weight_decay` straight off the weight, past the momentum. Only weights with two axes or more decay,
    the kernels. On TensorFlow a step is one operation. `learning_rate`, `momentum`, `nesterov`, `kwargs`: see Keras.
    """

    def __init__(self, learning_rate=0.1, momentum=0.9, nesterov=True, decay=0.0, **kwargs):
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if self.decay and len(variable.shape) > 1:
            gradient = gradient + self.decay * ops.convert_to_tensor(variable)
        if keras.backend.backend() != "tensorflow" or not self.momentum:
            return super().update_step(gradient, variable, learning_rate)
        import tensorflow as tf
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=ops.cast(learning_rate, variable.dtype), grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype), use_nesterov=self.nesterov)  # fmt: skip

    def get_config(self):
        return super().get_config() | {"decay": self.decay}


@keras.saving.register_keras_serializable(package="ranet_lib")
class _Smoothed(keras.losses.CategoricalCrossentropy):
    """The loss of logits, by labels of which the share `label_smoothing` is spread over all classes."""

    def call(self, labels, logits):
        truth = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), logits.shape[-1], dtype=logits.dtype)
        truth = (1 - self.label_smoothing) * truth + self.label_smoothing / logits.shape[-1]
        return ops.categorical_crossentropy(truth, logits, from_logits=True)
