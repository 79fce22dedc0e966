"""A ResNet-18 in Keras with its PyTorch backend, the way its documentation shows: layers, `compile`, `fit`.

    python benchmarks/peers/keras_cnn.py --pixels FILE --budget 300 --seed 0

The net has the shape of `resnet18` (11,173,962 trained parameters). Augmentation is Keras's own layers, mapped over
batches of a PyDataset; SGD with Nesterov momentum, weight decay and a cosine schedule with warm-up are Keras's too.
Channels come first, as Keras advises for this backend.
"""

import math
import os

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

import keras
import numpy as np
from common import EVALUATION_BATCH, Clock, Pixels, Plan, main, say
from keras import layers

REQUIREMENTS = ("torch==2.13.0", "numpy==2.4.6", "keras==3.15.1")
BATCH, SHIFT = 128, 4 / 32
MAX_LR, MOMENTUM, WEIGHT_DECAY, WARMUP = 0.1, 0.9, 5e-4, 0.3

keras.config.set_image_data_format("channels_first")


def conv_norm(x: keras.KerasTensor, channels: int, kernel: int, stride: int = 1) -> keras.KerasTensor:
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization(axis=1, momentum=0.9, epsilon=1e-5)(x)


def basic_block(x: keras.KerasTensor, channels: int, stride: int) -> keras.KerasTensor:
    inner = layers.ReLU()(conv_norm(x, channels, 3, stride))
    inner = conv_norm(inner, channels, 3)
    shortcut = x if stride == 1 and x.shape[1] == channels else conv_norm(x, channels, 1, stride)
    return layers.ReLU()(layers.Add()([inner, shortcut]))


def make_model(mean: np.ndarray, variance: np.ndarray) -> keras.Model:
    pixels = keras.Input((3, 32, 32))
    x = layers.Normalization(axis=1, mean=mean, variance=variance)(pixels)
    x = layers.ReLU()(conv_norm(x, 64, 3))
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        x = basic_block(x, channels, stride)
    return keras.Model(pixels, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


class Batches(keras.utils.PyDataset):
    """Shuffled batches of raw pixels, shifted (the border is filled with black) and mirrored at random."""

    def __init__(self, pixels: Pixels, batch: int, seed: int) -> None:
        super().__init__()
        self.images, self.labels = first(pixels.x_train), pixels.y_train
        self.batch, self.rng = batch, np.random.default_rng(seed)
        self.augment = keras.Sequential([
            layers.RandomTranslation(SHIFT, SHIFT, fill_mode="constant", interpolation="nearest", seed=seed),
            layers.RandomFlip("horizontal", seed=seed),
        ])  # fmt: skip
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.labels) // self.batch

    def __getitem__(self, at: int) -> tuple[object, np.ndarray]:
        index = self.order[at * self.batch : (at + 1) * self.batch]
        return self.augment(self.images[index].astype(np.float32), training=True), self.labels[index]

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.labels))


class Progress(keras.callbacks.Callback):
    """Tells the clock about every step, and ends with the last one."""

    def __init__(self, clock: Clock, plan: Plan) -> None:
        super().__init__()
        self.clock, self.plan = clock, plan

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.clock.step()
        self.model.stop_training = len(self.clock.steps) >= self.plan.steps

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        say(f"epoch {epoch + 1} loss {(logs or {}).get('loss', math.nan):.4f} {self.clock.seconds:.1f} s")


def first(images: np.ndarray) -> np.ndarray:
    """Channels first."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def one_cycle(plan: Plan) -> keras.optimizers.schedules.LearningRateSchedule:
    """Warm-up, then a cosine to zero; the shape of torch's one cycle."""
    warm, rate = int(WARMUP * plan.schedule), plan.rate * MAX_LR
    return keras.optimizers.schedules.CosineDecay(
        rate / 25, decay_steps=plan.schedule - warm, alpha=0.0, warmup_target=rate, warmup_steps=warm
    )


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> keras.Model:
    keras.utils.set_random_seed(seed)
    clock.start()
    levels = pixels.x_train.reshape(-1, 3).astype(np.float32)
    model = make_model(levels.mean(0, dtype=np.float64), levels.var(0, dtype=np.float64))
    optimizer = keras.optimizers.SGD(one_cycle(plan), MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    batches = Batches(pixels, min(BATCH, len(pixels.y_train)), seed)
    epochs = max(1, math.ceil(plan.steps / len(batches)))
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[Progress(clock, plan)])
    return model


def evaluate(model: keras.Model, pixels: Pixels) -> tuple[float, None]:
    logits = model.predict(first(pixels.x_test), batch_size=EVALUATION_BATCH, verbose=0)
    return float((logits.argmax(1) == pixels.y_test).mean()), None


if __name__ == "__main__":
    main("keras_cnn", BATCH, train, evaluate, packages=("torch", "numpy", "keras"))
