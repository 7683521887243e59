"""Two bilevel problems on scikit-learn's digits: noisy labels, and a data set of ten images.

- Reweighting: 1 000 training labels, of which 40 % are replaced by another class, and 50 clean
  labels for validation. The weight of every training example is learned, so that a net trained on
  the weighted examples does well on the validation set. The net stays warm between outer steps.
  It is compared with training on all labels, on the validation set, and on the clean labels alone,
  each for the same number of inner steps. That number and the outer rate were chosen on seeds that
  are not reported.
- Distillation: one image of each class is learned, so that a net trained on these ten from a random
  start does well on the training set. It is compared with ten real images.

    python examples/research/bilevel.py --out .

The script needs no file. Every figure is the mean over seeds (splits, noise, starts) with a 95 %
interval, on 747 test images.
"""

import functools
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

CLASSES = 10
PIXELS = 64
INNER_OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Config(NamedTuple):
    """The settings of a run."""

    seeds: int = 10
    hidden: int = 64  # units of the hidden layer
    training: int = 1000  # images
    validation: int = 50  # images
    # Reweighting
    noise: float = 0.4  # share of the training labels that are wrong
    reweighting_steps: int = 50  # outer steps
    reweighting_inner_steps: int = 10  # in each
    reweighting_rate: float = 0.05
    # Distillation
    distillation_steps: int = 300  # outer steps
    distillation_inner_steps: int = 30
    distillation_rate: float = 0.02
    distillation_starts: int = 4  # random starts in an outer step
    draws: int = 20  # of ten real images, and of random starts that test the distilled ones


TINY = Config(
    seeds=2,
    hidden=4,
    reweighting_steps=2,
    reweighting_inner_steps=2,
    distillation_steps=2,
    distillation_inner_steps=2,
    draws=2,
)


digits = load_digits()
IMAGES = jnp.asarray(digits.data / 16, jnp.float32)
LABELS = jnp.asarray(digits.target)


# What both problems share: a net with one hidden layer, its loss, and the data.
def random_weights(config, key):
    hidden_key, head_key = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden_key, (PIXELS, config.hidden)) * (2 / PIXELS) ** 0.5,
        "shift": jnp.zeros(config.hidden),
        "head": jax.random.normal(head_key, (config.hidden, CLASSES)) / config.hidden**0.5,
        "bias": jnp.zeros(CLASSES),
    }


def logits(weights, x_NxP):
    hidden_NxH = jax.nn.relu(x_NxP @ weights["hidden"] + weights["shift"])
    return hidden_NxH @ weights["head"] + weights["bias"]


def losses_of_examples(params, batch):
    answers = logits(params.fast, batch.x)
    return optax.softmax_cross_entropy_with_integer_labels(answers, batch.y)


def mean_loss(params, batch, key):
    correct = logits(params.fast, batch.x).argmax(axis=-1) == batch.y
    return losses_of_examples(params, batch).mean(), {"accuracy": correct.mean()}


def accuracy(weights, batch):
    _, metrics = mean_loss(mj.Params(weights, ()), batch, None)
    return metrics["accuracy"]


def split(config, key):
    """Training, validation and test images, as three batches."""
    rows = jax.random.permutation(key, len(LABELS))
    parts = jnp.split(rows, (config.training, config.training + config.validation))
    return [mj.Batch(IMAGES[part], LABELS[part]) for part in parts]


def repeated(tree, number):
    """The same arrays, stacked along a leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), tree)


def the_same(tasks, key):
    """A sampler that returns its source: every outer step gets the same tasks."""
    return tasks


def reweighting(config, key):
    """Test accuracy of each way to use noisy labels; the learned weights; the wrong labels."""
    split_key, wrong_key, shift_key, start_key, run_key = jax.random.split(key, 5)
    train, validation, test = split(config, split_key)
    wrong = jax.random.permutation(
        wrong_key, jnp.arange(config.training) < config.training * config.noise
    )
    other = (train.y + jax.random.randint(shift_key, (config.training,), 1, CLASSES)) % CLASSES
    noisy = train._replace(y=jnp.where(wrong, other, train.y))
    start = random_weights(config, start_key)

    def weighted_loss(params, batch, key):
        weight = jax.nn.sigmoid(params.slow)
        return (weight * losses_of_examples(params, batch)).sum() / weight.sum(), {}

    def clean_loss(params, batch, key):
        return (losses_of_examples(params, batch) * ~wrong).sum() / (~wrong).sum(), {}

    def fitted(loss, batch):
        """Test accuracy after as many inner steps in all, without learned weights."""
        steps = config.reweighting_inner_steps * config.reweighting_steps
        descent = mj.inner_loop(loss, INNER_OPTIMIZER, steps=steps, differentiate=mj.first_order())
        return accuracy(descent.adapt(mj.Params(start, ()), batch, run_key).fast, test)

    inner = mj.inner_loop(
        weighted_loss,
        INNER_OPTIMIZER,
        steps=config.reweighting_inner_steps,
        differentiate=mj.mixed_mode(),
    )
    outer = mj.bilevel(inner, mean_loss, optax.adam(config.reweighting_rate))
    state, _ = mj.training.scan(
        outer,
        outer.init(mj.Params(start, jnp.zeros(config.training))),
        the_same,
        repeated(mj.Task(noisy, validation), 1),
        run_key,
        steps=config.reweighting_steps,
    )
    results = {
        "noisy labels as they are": fitted(mean_loss, noisy),
        f"{config.validation} clean validation labels only": fitted(mean_loss, validation),
        "learned weights": accuracy(state.params.fast, test),
        "the 600 clean labels, were they known": fitted(clean_loss, noisy),
    }
    return results, (jax.nn.sigmoid(state.params.slow), wrong)


def distillation(config, key):
    """Test accuracy after training on ten real images or ten learned ones; the learned images."""
    split_key, image_key, run_key, real_key, test_key = jax.random.split(key, 5)
    train, _, test = split(config, split_key)
    classes = jnp.arange(CLASSES)

    def ten_images_loss(params, batch, key):
        return mean_loss(params, mj.Batch(params.slow, classes), key)

    # The support set is not read: the net learns from the images in `params.slow`.
    from_random_weights = mj.Adaptation(
        init=lambda params, key: params,
        adapt=lambda params, support, key: params._replace(fast=random_weights(config, key)),
    )
    descent = mj.inner_loop(
        ten_images_loss,
        INNER_OPTIMIZER,
        steps=config.distillation_inner_steps,
        differentiate=mj.mixed_mode(),
    )
    adaptation = mj.chain(start=from_random_weights, descent=descent)
    task_loss = mj.query_loss(adaptation, mean_loss)
    images = 0.5 + 0.1 * jax.random.normal(image_key, (CLASSES, PIXELS))
    params = adaptation.init(mj.Params(random_weights(config, image_key), images), key)
    outer = mj.outer_loop(task_loss, optax.adam(config.distillation_rate))
    state, _ = mj.training.scan(
        outer,
        outer.init(params),
        the_same,
        repeated(mj.Task(train, train), config.distillation_starts),
        run_key,
        steps=config.distillation_steps,
    )

    # Ten real images, one of each class: the row with the highest score among those of the class.
    scores = jax.random.uniform(real_key, (config.draws, config.training))
    not_of_class = train.y[None, None] != classes[:, None, None]
    rows = (scores - 2 * not_of_class).argmax(axis=-1)  # [classes, draws]
    real = train.x[rows].swapaxes(0, 1)  # [draws, classes, pixels]

    def accuracy_after(ten, key):
        _, metrics = task_loss(params._replace(slow=ten), mj.Task(train, test), key)
        return metrics["accuracy"]

    tests = repeated(mj.Task(train, test), config.draws)
    learned = mj.evaluate(task_loss, state.params, tests, test_key)["accuracy"].mean
    results = {
        "one real image per class": jax.vmap(accuracy_after)(
            real, jax.random.split(test_key, config.draws)
        ).mean(),
        "one distilled image per class": learned,
    }
    return results, state.params.slow


def run(config, problem):
    """Runs a problem from every seed. Returns the rows of the table, and its other results."""
    began = time.perf_counter()
    keys = jax.random.split(jax.random.key(0), config.seeds)
    results, extra = jax.lax.map(jax.jit(functools.partial(problem, config)), keys)
    rows = []
    for name, by_seed in results.items():
        accuracy = common.percent(by_seed)
        rows.append({"method": name, "accuracy": accuracy[0], "interval": accuracy[1]})
        print(f"{name:40s} {common.cell(accuracy)} %", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")
    return rows, extra


def main(config, out):
    """Solves both problems from every seed, and draws what the first seed has learned."""
    reweighted, (weights, wrong) = run(config, reweighting)
    distilled, images = run(config, distillation)
    report = {
        **common.header(),
        "seeds": config.seeds,
        "reweighting": reweighted,
        "distillation": distilled,
    }
    common.write_report(out / "bilevel.json", report)
    plot(*jax.device_get((weights[0], wrong[0], images[0])), out / "bilevel.png")
    print(f"See bilevel.png and bilevel.json in {out}.")


def plot(weights, wrong, images, path):
    """The weights of right and wrong labels on the left, the distilled images on the right."""
    figure = plt.figure(figsize=(10, 3.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
    axes = left.subplots()
    labels = ["right label", "wrong label"]
    colours = [mj.plots.RIGHT, mj.plots.WRONG]
    axes.hist([weights[~wrong], weights[wrong]], bins=20, range=(0, 1), label=labels, color=colours)
    axes.set(xlabel="learned weight", ylabel="training examples", title="Reweighting")
    axes.legend(loc="upper center")
    for digit, (axes, image) in enumerate(zip(right.subplots(2, 5).flat, images, strict=True)):
        common.draw_image(axes, image.reshape(8, 8, 1), title=f"{digit}")
    right.suptitle("Distillation: one learned image for each digit", fontsize=10.5)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "seeds", description=__doc__)
