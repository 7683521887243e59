"""Two classic bilevel problems on scikit-learn's digits: weights of noisy examples, and a data set of ten images.

- Reweighting: 1 000 training labels, of which 40 % are replaced by another class; 50 clean ones for validation. Every
  example's weight is learned so that a net trained on the weighted examples does well on the validation set; the net
  stays warm between outer steps. Against training on all labels, on the validation set, and on the clean examples, all
  for the same number of inner steps. That and the outer rate were chosen on seeds that are not reported.
- Distillation: one image of each class is learned so that a net trained on these ten from a random start does well on
  the training set. Against ten real images.

    python examples/bilevel.py

Every figure is the mean over seeds (splits, noise, starts) with a 95 % interval, on 747 test images.
Writes benchmarks/results/bilevel.json and bilevel.png.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib
import optax
from sklearn.datasets import load_digits

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
)
options = parser.parse_args()

CLASSES, PIXELS, HIDDEN = 10, 64, 64
NOISE, VALIDATION, REWEIGHTING_STEPS, DISTILLATION_STEPS = 0.4, 50, 50, 300
digits = load_digits()
IMAGES, LABELS = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)


def start(key):
    kernels = jax.random.split(key)
    return {
        "hidden": jax.random.normal(kernels[0], (PIXELS, HIDDEN)) * (2 / PIXELS) ** 0.5,
        "shift": jnp.zeros(HIDDEN),
        "head": jax.random.normal(kernels[1], (HIDDEN, CLASSES)) / HIDDEN**0.5,
        "bias": jnp.zeros(CLASSES),
    }


def logits(fast, x_NxP):
    return jax.nn.relu(x_NxP @ fast["hidden"] + fast["shift"]) @ fast["head"] + fast["bias"]


def query_loss(params, batch, key):
    answers = logits(params.fast, batch.x)
    value = optax.softmax_cross_entropy_with_integer_labels(answers, batch.y).mean()
    return value, {"accuracy": (answers.argmax(axis=-1) == batch.y).mean()}


def split(key):
    """1 000 training, 50 validation and 747 test images."""
    rows = jax.random.permutation(key, len(LABELS))
    return [
        mj.Batch(IMAGES[some], LABELS[some]) for some in jnp.split(rows, (1000, 1000 + VALIDATION))
    ]


def accuracy(fast, batch):
    return query_loss(mj.Params(fast, ()), batch, None)[1]["accuracy"]


def reweighting(key):
    """Test accuracy of each way to use noisy labels, and the weights of wrong and right ones."""
    split_key, wrong_key, shift_key, start_key, run_key = jax.random.split(key, 5)
    train, validation, test = split(split_key)
    wrong = jax.random.permutation(wrong_key, jnp.arange(1000) < 1000 * NOISE)
    other = (train.y + jax.random.randint(shift_key, (1000,), 1, CLASSES)) % CLASSES
    noisy = train._replace(y=jnp.where(wrong, other, train.y))
    optimizer = optax.sgd(0.1, momentum=0.9)

    def weighted_loss(params, batch, key):
        values = optax.softmax_cross_entropy_with_integer_labels(
            logits(params.fast, batch.x), batch.y
        )
        weight = jax.nn.sigmoid(params.slow)
        return (weight * values).sum() / weight.sum(), {}

    inner = mj.inner_loop(weighted_loss, optimizer, steps=10, differentiate=mj.mixed_mode())
    outer = mj.bilevel(inner, query_loss, optax.adam(0.05))
    state = outer.init(mj.Params(start(start_key), jnp.zeros(1000)))
    task = mj.Task(noisy, validation)
    state, _ = jax.lax.scan(
        lambda state, key: outer.step(state, task, key),
        state,
        jax.random.split(run_key, REWEIGHTING_STEPS),
    )

    def plain(batch):
        """The same number of steps without weights."""
        fit = mj.inner_loop(
            query_loss, optimizer, steps=10 * REWEIGHTING_STEPS, differentiate=mj.first_order()
        )
        return accuracy(fit.adapt(mj.Params(start(start_key), ()), batch, run_key).fast, test)

    def clean_only(params, batch, key):
        values = optax.softmax_cross_entropy_with_integer_labels(
            logits(params.fast, batch.x), batch.y
        )
        return (values * ~wrong).sum() / (~wrong).sum(), {}

    oracle = mj.inner_loop(
        clean_only, optimizer, steps=10 * REWEIGHTING_STEPS, differentiate=mj.first_order()
    )
    oracle_fast = oracle.adapt(mj.Params(start(start_key), ()), noisy, run_key).fast
    weights = jax.nn.sigmoid(state.params.slow)
    results = {
        "noisy labels as they are": plain(noisy),
        f"{VALIDATION} clean validation labels only": plain(validation),
        "learned weights": accuracy(state.params.fast, test),
        "the 600 clean labels, were they known": accuracy(oracle_fast, test),
    }
    return results, (weights, wrong)


def distillation(key):
    """Test accuracy after training on ten learned images, and on ten real ones, and the learned images."""
    split_key, image_key, run_key, real_key, test_key = jax.random.split(key, 5)
    train, _, test = split(split_key)
    classes = jnp.arange(CLASSES)

    def ten_images_loss(params, batch, key):
        return query_loss(params, mj.Batch(params.slow, classes), key)

    fresh = mj.Adaptation(
        init=lambda params, key: params,
        adapt=lambda params, support, key: params._replace(fast=start(key)),
    )
    descent = mj.inner_loop(
        ten_images_loss, optax.sgd(0.1, momentum=0.9), steps=30, differentiate=mj.mixed_mode()
    )
    adaptation = mj.chain(fresh, descent)
    task_loss = mj.query_loss(adaptation, query_loss)
    outer = mj.outer_loop(task_loss, optax.adam(0.02))
    images = 0.5 + 0.1 * jax.random.normal(image_key, (CLASSES, PIXELS))
    params = mj.Params(start(image_key), images, rule=((), ()))

    def repeat(batch, number):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (number, *leaf.shape)), batch)

    def step(state, key):
        return outer.step(
            state, repeat(mj.Task(train, train), 4), key
        )  # four random starts; the support is not read

    state, _ = jax.lax.scan(step, outer.init(params), jax.random.split(run_key, DISTILLATION_STEPS))
    scores = jax.random.uniform(real_key, (20, 1000)) - 2 * (
        train.y[None, None] != classes[:, None, None]
    )
    real = train.x[scores.argmax(axis=-1)]  # [classes, 20 draws, pixels]
    tests = repeat(mj.Task(train, test), 20)
    learned = mj.evaluate(task_loss, state.params, tests, test_key)["accuracy"].mean
    keys = jax.random.split(test_key, 20)
    per_draw = jax.vmap(
        lambda ten, key: task_loss(params._replace(slow=ten), mj.Task(train, test), key)[1][
            "accuracy"
        ]
    )
    results = {
        "one real image per class": per_draw(real.swapaxes(0, 1), keys).mean(),
        "one distilled image per class": learned,
    }
    return results, state.params.slow


def run(problem):
    began = time.perf_counter()
    results, extra = jax.lax.map(
        jax.jit(problem), jax.random.split(jax.random.key(0), options.seeds)
    )
    rows = []
    for name, seeds in results.items():
        summary = mj.summarize(100 * seeds)
        rows.append(
            {"method": name, "accuracy": float(summary.mean), "interval": float(summary.interval)}
        )
        print(f"{name:40s} {summary.mean:.1f} ± {summary.interval:.1f} %", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")
    return rows, extra


def draw(weights, wrong, images, path):
    figure = plt.figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
    axis = left.subplots()
    axis.hist(
        [weights[~wrong], weights[wrong]],
        bins=20,
        range=(0, 1),
        label=["right label", "wrong label"],
    )
    axis.set(xlabel="learned weight", ylabel="training examples")
    axis.legend()
    for axis, image in zip(right.subplots(2, 5).flat, images, strict=True):
        axis.imshow(image.reshape(8, 8), cmap="gray_r")
        axis.axis("off")
    right.suptitle("Ten distilled images")
    figure.savefig(path, dpi=110)


reweighted, (weights, wrong) = run(reweighting)
distilled, images = run(distillation)
report = {
    "seeds": options.seeds,
    "jax": jax.__version__,
    "reweighting": reweighted,
    "distillation": distilled,
}
options.out.mkdir(parents=True, exist_ok=True)
(options.out / "bilevel.json").write_text(json.dumps(report, indent=1) + "\n")
draw(*jax.device_get((weights[0], wrong[0], images[0])), options.out / "bilevel.png")
