"""The learned optimizer that the package ships, beside AdamW and Muon, on nets it has never seen.

`inner.scale_by_celo2` was trained on nets of 2410 weights. Here it trains Conv4 on 1100 characters
of Omniglot (50 times as many weights), and a transformer that predicts the next character of short
texts (300 times). Every optimizer is tuned on a tenth of the steps: twelve rates and three
schedules, and the setting of the lowest last loss is trained to the end with three seeds. One row
of Celo2 is not tuned: the rate of its own training, and a cosine. With --ablations FOLDER there are
rows for FOLDER/no-normalisation/celo2.npz and FOLDER/no-augmentation/celo2.npz, which
benchmarks/train_celo2.py writes. Results are added to benchmarks/results/optimizers.json after each
row, beside optimizers.png, so that a run that was stopped goes on.

METAJAX_DATA=folder python benchmarks/optimizers.py --ablations /tmp/celo
METAJAX_DATA=folder python benchmarks/optimizers.py --problems characters
METAJAX_DATA=folder python benchmarks/optimizers.py --tiny --out /tmp/results    # only that it runs
"""

import argparse
import functools
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import train_celo2
from flax import nnx
from matplotlib.figure import Figure

import metajax as mj
from metajax import inner

STEPS, WINDOW = 1000, 20  # of a training, and over which a curve is averaged
RATES = np.geomspace(1e-4, 1e-1, 12).tolist()
SCHEDULES = {
    "constant": lambda t: jnp.ones_like(t),
    "cosine": lambda t: 0.5 * (1 + jnp.cos(jnp.pi * t)),
    "warm-up, cosine": lambda t: jnp.minimum(10 * t, 0.5 * (1 + jnp.cos(jnp.pi * t))),
}
"""Factors of the rate; t is the share of the training that is done, from 0 to 1."""

LENGTH, WIDTH, LAYERS, HEADS = 64, 120, 4, 4  # of the transformer
DECAY = 1e-4  # of the weights, in all rows

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--problems", nargs="+", default=["images", "characters"])
parser.add_argument("--ablations", type=pathlib.Path, help="the folder of their weights")
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Problem(NamedTuple):
    """What is to be learned.

    Attributes:
        init: seed -> weights.
        loss: (weights, data, key) -> loss of a minibatch that is drawn with the key.
        data: arrays.
    """

    init: Callable
    loss: Callable
    data: object


def images(tiny):
    """Conv4 on the union of the training characters of Omniglot, minibatches of 64."""
    omniglot = mj.data.omniglot()
    split = mj.data.draw_split(omniglot.names, {"train": 1100, "test": 523}, seed=0)
    characters = mj.data.select_part(omniglot, split, "train")
    width = 4 if tiny else 48
    make = lambda seed: mj.nets.Conv4(characters.classes, width=width, rngs=nnx.Rngs(seed))
    draw = mj.data.batches(64)

    def loss(logits, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()

    return problem_of(make, draw, loss, characters)


def characters(tiny):
    """A transformer on the utterances of CLINC150, minibatches of 16 pieces of 64 characters."""
    text = "\n".join(mj.data.clinc150_texts("train")[0])
    alphabet = sorted(set(text))
    numbers = np.array([alphabet.index(letter) for letter in text], np.int32)
    layers, width = (1, 8) if tiny else (LAYERS, WIDTH)
    make = lambda seed: CharacterTransformer(len(alphabet), width, layers, nnx.Rngs(seed))

    def draw(data, key):
        starts = jax.random.randint(key, (16,), 0, len(data) - LENGTH - 1)
        pieces = data[starts[:, None] + jnp.arange(LENGTH + 1)[None]]
        return mj.Batch(pieces[:, :-1], pieces[:, 1:])

    def loss(logits, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()

    return problem_of(make, draw, loss, jnp.asarray(numbers))


PROBLEMS = {"images": images, "characters": characters}


def problem_of(make, draw, loss, data):
    """A problem from a net, what draws a minibatch, and the loss of its outputs."""
    apply, _ = mj.nets.functional(make(0))

    def of_weights(weights, data, key):
        batch = draw(data, key)
        return loss(apply(mj.Params(weights, {}), batch.x), batch)

    return Problem(lambda seed: mj.nets.functional(make(seed))[1].fast, of_weights, data)


class CharacterTransformer(nnx.Module):
    """Logits of the next character, int[n, length] -> [n, length, characters]."""

    def __init__(self, characters, width, layers, rngs):
        linear = functools.partial(nnx.Linear, rngs=rngs)
        norm = lambda: nnx.LayerNorm(width, rngs=rngs)
        self.letter = nnx.Embed(characters, width, rngs=rngs)
        self.place = nnx.Embed(LENGTH, width, rngs=rngs)
        self.norms = nnx.List([norm() for _ in range(layers)])
        self.other_norms = nnx.List([norm() for _ in range(layers)])
        self.inputs = nnx.List([linear(width, 3 * width) for _ in range(layers)])
        self.outputs = nnx.List([linear(width, width) for _ in range(layers)])
        self.ups = nnx.List([linear(width, 4 * width) for _ in range(layers)])
        self.downs = nnx.List([linear(4 * width, width) for _ in range(layers)])
        self.norm, self.head = norm(), linear(width, characters)

    def __call__(self, x):
        tokens = self.letter(x) + self.place(jnp.arange(x.shape[1]))[None]
        for layer, norm in enumerate(self.norms):
            parts = self.inputs[layer](norm(tokens)).reshape(*x.shape, 3, HEADS, -1)
            query, key, value = jnp.moveaxis(parts, 2, 0)
            read = jax.nn.dot_product_attention(query, key, value, is_causal=True)
            tokens += self.outputs[layer](read.reshape(tokens.shape))
            tokens += self.downs[layer](
                jax.nn.gelu(self.ups[layer](self.other_norms[layer](tokens)))
            )
        return self.head(self.norm(tokens))


def muon():
    """Muon for the kernels of hidden layers, and Adam for the others, at the same rate.

    A kernel of a convolution is a matrix from all its inputs to its outputs.
    """

    def numbers(weights):
        def of(path, leaf):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if leaf.ndim < 2 or any(part in name for part in ("head", "letter", "place")):
                return None
            inputs = tuple(range(leaf.ndim - 1))
            return optax.contrib.MuonDimensionNumbers(inputs, (leaf.ndim - 1,))

        return jax.tree.map_with_path(of, weights)

    return optax.contrib.muon(
        1.0,
        weight_decay=DECAY,
        adam_weight_decay=DECAY,
        muon_weight_dimension_numbers=numbers,
        consistent_rms=0.2,
    )


def learned(directions):
    """A learned optimizer with the same decay of the weights."""
    return optax.chain(directions, optax.add_decayed_weights(DECAY), optax.scale(-1.0))


def optimizers(ablations):
    """The optimizers by name, at the rate 1."""
    found = {
        "AdamW": optax.adamw(1.0, weight_decay=DECAY),
        "Muon": muon(),
        "Celo2, not tuned": learned(inner.scale_by_celo2()),
        "Celo2": learned(inner.scale_by_celo2()),
    }
    if ablations:
        # Its directions are large: the rates are multiples of that of its training.
        without = inner.celo2(-train_celo2.RATE, normalised=False)
        for name, rule in {"normalisation": without, "augmentation": inner.celo2(-1.0)}.items():
            weights = train_celo2.load(ablations / f"no-{name}" / "celo2.npz")
            found[f"Celo2 without {name}"] = learned(rule.optimizer(weights))
    return found


def trainer(problem, optimizer, steps):
    """(weights, data, rate, number of the schedule, key) -> the loss of every step."""

    @jax.jit
    def train(weights, data, rate, schedule, key):
        def step(carry, place):
            weights, state = carry
            loss, slope = jax.value_and_grad(problem.loss)(
                weights, data, jax.random.fold_in(key, place)
            )
            factor = jax.lax.switch(schedule, list(SCHEDULES.values()), place / steps)
            updates, state = optimizer.update(slope, state, weights)
            updates = jax.tree.map(lambda leaf: rate * factor * leaf, updates)
            return (optax.apply_updates(weights, updates), state), loss

        return jax.lax.scan(step, (weights, optimizer.init(weights)), jnp.arange(steps))[1]

    return train


def last(losses):
    """The mean over the last tenth, infinite where the training diverged."""
    mean = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    return mean if np.isfinite(mean) else float("inf")


def tune(problem, optimizer, steps, rates):
    """{"rate", "schedule", "loss"} of the best setting after a few steps."""
    train = trainer(problem, optimizer, steps)
    weights, best = problem.init(0), None
    for rate, (place, schedule) in itertools.product(rates, enumerate(SCHEDULES)):
        loss = last(train(weights, problem.data, rate, place, jax.random.key(0)))
        if best is None or loss < best["loss"]:
            best = {"rate": rate, "schedule": schedule, "loss": loss}
    return best


def main(args):
    steps, rates = (20, RATES[4:6]) if args.tiny else (STEPS, RATES)
    path = args.out / "optimizers.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in args.problems:
        problem = PROBLEMS[name](args.tiny)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(problem.init(0)))
        entry = report.setdefault(name, {"parameters": parameters, "rows": {}})
        for row, optimizer in optimizers(args.ablations).items():
            size = {"steps": steps, "seeds": args.seeds}
            if row in entry["rows"] and entry["rows"][row].items() >= size.items():
                continue
            setting = {"rate": 1e-3, "schedule": "cosine"}
            if row != "Celo2, not tuned":
                setting = tune(problem, optimizer, steps // 10, rates)
            print(name, row, setting, flush=True)
            train = trainer(problem, optimizer, steps)
            place = list(SCHEDULES).index(setting["schedule"])
            curves = [
                np.asarray(
                    train(
                        problem.init(seed),
                        problem.data,
                        setting["rate"],
                        place,
                        jax.random.key(seed),
                    )
                )
                for seed in range(args.seeds)
            ]
            entry["rows"][row] = {
                **size,
                "setting": setting,
                "last": [last(curve) for curve in curves],
                "curves": [curve.reshape(-1, WINDOW).mean(axis=1).tolist() for curve in curves],
                **harness.brief_header(),
            }
            print(entry["rows"][row]["last"], flush=True)
            harness.save(args.out, "optimizers", report)
    draw(report, args.out / "optimizers.png")


def draw(report, path):
    """The mean curve of every optimizer, by problem."""
    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(5 * len(report), 3.6), layout="constrained")
        panels = figure.subplots(1, len(report), squeeze=False)[0]
        for axes, (name, entry) in zip(panels, report.items(), strict=True):
            for row, found in entry["rows"].items():
                mean = np.mean(found["curves"], axis=0)
                axes.plot(WINDOW * np.arange(1, len(mean) + 1), mean, label=row)
            axes.set(xlabel="step", ylabel="loss", title=f"{name}, {entry['parameters']:,} weights")
        panels[0].legend()
        figure.savefig(path)


if __name__ == "__main__":
    main(parser.parse_args())
