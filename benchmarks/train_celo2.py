"""Trains the weights of the learned optimizer `inner.scale_by_celo2` that the package ships.

The inner problems: nets of widths 64, 32, 10 learn digits, or ten Latin letters, of 8 x 8 pixels on
minibatches of 64 for 1000 steps. What counts is the mean loss over the steps, by persistent
evolution strategies. Half of the problems are written in other units: their weights are φ = θ / s
with s from 1e-3 to 1e3, which is training at another rate. The paper has four sets of images,
100 000 outer steps, 100 to 2000 inner steps, and all problems in other units.

python benchmarks/train_celo2.py    # metajax/inner/weights/celo2.npz
python benchmarks/train_celo2.py --no-augmentation --out /tmp/celo/no-augmentation    # ablations
python benchmarks/train_celo2.py --no-normalisation --out /tmp/celo/no-normalisation
python benchmarks/train_celo2.py --steps 2 --out /tmp/celo    # that it runs
"""

import argparse
import dataclasses
import itertools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import metajax as mj
from metajax import inner

WEIGHTS = pathlib.Path(__file__).parents[1] / "metajax" / "inner" / "weights"
WIDTHS = (64, 32, 10)
PAIRS, TRUNCATION, HORIZON, STD = 8, 50, 1000, 0.01
RATE = 1e-3  # the root of the mean square of a change in training
OUTER_RATE = 5e-3
SHOTS, BATCH, QUERIES = 11, 64, 100  # examples of a class, of a step, and of the loss that counts
SCALES = (1e-3, 1e3)
REPORT_EVERY = 50  # outer steps

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=4000, help="outer steps")
parser.add_argument("--no-augmentation", action="store_true")
parser.add_argument("--no-normalisation", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=WEIGHTS)


def main(args: argparse.Namespace) -> None:
    if args.out == WEIGHTS and (args.no_augmentation or args.no_normalisation):
        parser.error("Name a folder with --out: an ablation is not what the package ships.")
    rule = inner.celo2(RATE, normalised=not args.no_normalisation)
    outer = mj.persistent(
        with_fixed_scale(rule),
        loss,
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adam(optax.cosine_decay_schedule(OUTER_RATE, args.steps)),
        ),
        horizon=HORIZON,
        truncation=TRUNCATION,
        pairs=PAIRS,
        std=STD,
        start=lambda params, key: first_weights(key, not args.no_augmentation),
        sample=mj.minibatch(BATCH),
    )
    draw = jax.jit(mj.data.meta_batch(problem, tasks=PAIRS))
    sources = images()
    key = jax.random.key(0)
    params = mj.Params(first_weights(key, False), (), rule.init(None, key))
    state = outer.init(params, draw(sources, key), key)
    step = jax.jit(outer.step, donate_argnums=0)
    args.out.mkdir(parents=True, exist_ok=True)
    start, losses = time.perf_counter(), []
    for number, step_key in enumerate(jax.random.split(jax.random.key(1), args.steps), start=1):
        task_key, loss_key = jax.random.split(step_key)
        state, report = step(state, draw(sources, task_key), loss_key)
        losses.append(report.loss)
        if number % REPORT_EVERY == 0 or number == args.steps:
            seconds = time.perf_counter() - start
            print(f"step {number}, {seconds:.0f} s, loss {np.nanmean(losses):.3f}", flush=True)
            losses = []
            save(args.out / "celo2.npz", state.params.rule)


def images() -> tuple[mj.data.Dataset, mj.data.Dataset]:
    """Digits and Latin letters of 8 x 8 pixels, as vectors from 0 to 1."""
    digits = load_digits()
    glyphs = mj.data.glyphs()
    latin = mj.data.split_scripts(glyphs, train=["Latin"], test=["Greek"])
    letters = mj.data.select_part(glyphs, latin, "train")
    full = jnp.asarray(letters.x, jnp.float32) / letters.scale
    small = jax.image.resize(full, (len(full), 8, 8, 1), "linear")
    return (
        mj.data.dataset(np.float32(digits.data / 16), digits.target),
        dataclasses.replace(letters, x=small.reshape(-1, 64), scale=None),
    )


def problem(sources: tuple[mj.data.Dataset, mj.data.Dataset], key: jax.Array) -> mj.Task:
    """Ten digits or ten letters to learn; the query set is a part of the support set."""
    which_key, task_key = jax.random.split(key)
    draw = mj.data.episodes(10, SHOTS, 1)
    digits, letters = (draw(source, task_key).support for source in sources)
    of_digits = jax.random.bernoulli(which_key)
    support = jax.tree.map(lambda a, b: jnp.where(of_digits, a, b), digits, letters)
    rows = jax.random.permutation(task_key, 10 * SHOTS)[:QUERIES]
    return mj.Task(support, mj.take(support, rows))


def first_weights(key: jax.Array, in_other_units: bool):
    """{"scale": s, "layers": the weights of a net, divided by s}."""
    key, unit_key, scale_key = jax.random.split(key, 3)
    size = jax.random.uniform(scale_key, minval=np.log(SCALES[0]), maxval=np.log(SCALES[1]))
    scale = jnp.where(jax.random.bernoulli(unit_key) & in_other_units, jnp.exp(size), 1.0)
    layers = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        key, layer_key = jax.random.split(key)
        kernel = jax.random.normal(layer_key, (inputs, outputs)) * (2 / inputs) ** 0.5
        layers.append((kernel / scale, jnp.zeros(outputs)))
    return {"scale": scale, "layers": layers}


def loss(params: mj.Params, batch: mj.Batch, key: jax.Array):
    """Cross-entropy of the net with its weights in the usual units.

    Its value is at most 1.5 times that of a constant prediction, so that problems that diverge do
    not drown the others; its gradient is that of the cross-entropy.
    """
    x = batch.x
    for number, layer in enumerate(params.fast["layers"]):
        kernel, bias = jax.tree.map(lambda leaf: leaf * params.fast["scale"], layer)
        x = (jax.nn.relu(x) if number else x) @ kernel + bias[None]
    entropy = optax.softmax_cross_entropy_with_integer_labels(x, batch.y).mean()
    most = 1.5 * np.log(WIDTHS[-1])
    return entropy + jax.lax.stop_gradient(jnp.minimum(entropy, most) - entropy), {}


def with_fixed_scale(rule: mj.Rule) -> mj.Rule:
    """The rule for the layers alone."""

    def optimizer(weights):
        parts = {"layers": rule.optimizer(weights), "scale": optax.set_to_zero()}
        return optax.multi_transform(parts, {"scale": "scale", "layers": "layers"})

    return mj.Rule(rule.init, optimizer)


def save(path: pathlib.Path, weights) -> None:
    """Writes kernels and biases."""
    arrays = {}
    for number, (kernel, bias) in enumerate(weights):
        arrays |= {f"kernel{number}": np.asarray(kernel), f"bias{number}": np.asarray(bias)}
    np.savez(path, **arrays)


def load(path: pathlib.Path) -> list:
    """The weights of a file, for the optimizer of `inner.celo2`."""
    with np.load(path, allow_pickle=False) as saved:
        return [(saved[f"kernel{i}"], saved[f"bias{i}"]) for i in range(len(saved.files) // 2)]


if __name__ == "__main__":
    main(parser.parse_args())
