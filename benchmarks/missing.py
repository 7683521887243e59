"""Recordings that are missing in most of the training and in all of the test: SMIL and what is simpler, on digits.

The setting of Ma et al. 2021 (arXiv 2103.05677, avMNIST): 105 written digits of each class to learn from, of which 5 to
20 % come with a recording of the spoken digit, and pictures alone to judge. Reads `mnist.npz` and `fsdd.npz` from the
folder that METAJAX_DATA names. Each seed draws its 1 050 examples and is tested on all other 8 950 pictures, and on 450
of them with recordings that are new, too. Settings are chosen first, on a fifth of the training examples, at 10 %.

All learners have the same encoders, small enough for two cores, and take the same number of steps. SMIL spends half of
them on zero-filling, from where it starts, and like its authors' code it descends more than its equation: the loss of
what is incomplete, too, and that of what is complete without its recording. How much each counts is a setting, and the
equation alone is among those to choose from. Intervals are over seeds, and differences are paired by seed.

    METAJAX_DATA=... python benchmarks/missing.py --out .
"""

import argparse
import functools
import json
import os
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.modalities import (
    completed,
    drop_modalities,
    init_completion,
    modality_priors,
    restrict,
)

CLASSES, ROWS, HELD, PAIRS = (
    10,
    105,
    21,
    45,
)  # examples of each class: to learn from, of these to choose on; test pairs
WIDTH, HIDDEN, BATCH, PRIORS = 32, 96, 64, 10
COMPLETE = {
    5: 5,
    10: 10,
    15: 16,
    20: 21,
}  # percent of the training examples that have a recording, and how many of 105


class Setting(NamedTuple):
    """Numbers only, so that a program is compiled once for all of them."""

    rate: float = 3e-3  # of Adam, going down to zero
    drop: float = 0.0  # how often a recording is taken away in training
    inner: float = 0.1  # step size of the inner step; this and what follows is of SMIL alone
    incomplete: float = 1.0  # how much the loss of incomplete examples counts in the outer loop
    withheld: float = 1.0  # and that of complete ones without their recording
    noise: float = 1.0  # 0 for none


RATES, START = (3e-3, 1e-2, 3e-2), Setting(1e-2)  # SMIL starts from zero-filling at this rate
SETTINGS = {
    "image only": [Setting(rate) for rate in RATES],
    "zeros": [Setting(rate) for rate in RATES],
    "zeros, with dropout": [Setting(rate, drop=0.5) for rate in RATES],
    "mean of what is there": [Setting(rate) for rate in RATES],
    "SMIL": [
        *(Setting(rate) for rate in (1e-3, 3e-3, 1e-2)),
        Setting(inner=0.01),
        Setting(incomplete=3.0),
        Setting(incomplete=0.0, withheld=0.0),
        Setting(withheld=0.0),
        Setting(noise=0.0),
        Setting(incomplete=3.0, noise=0.0),
    ],
}
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--seeds", type=int, default=6)
parser.add_argument("--steps", type=int, default=600, help="steps of every learner")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")


def spectrograms():
    """How loud 40 bands of pitch are in 9 parts of every recording, at mean 0 and variance 1: [digit, 200, 360]."""
    spoken = mj.data.spoken_digits()
    mel = jax.jit(lambda wave: mj.nets.log_mel(wave / 32768.0, rate=8000, hop=0.02))(spoken.x)
    mel = np.asarray(mel)[:, :36].reshape(-1, 9, 4, 40).mean(axis=2).reshape(CLASSES, 200, 360)
    return (mel - mel.mean(axis=2, keepdims=True)) / mel.std(axis=2, keepdims=True)


def read(seeds):
    """Of each seed [seed, rows, ...]: examples to learn from, sorted by digit; all other pictures; 450 other pairs."""
    written, sound = mj.data.written_digits(), spectrograms()
    image, y = np.asarray(written.x, np.float32).reshape(-1, 784) / 255, np.asarray(written.y)

    def batch(rows, audio):
        return mj.Batch(mj.data.as_modalities({"image": image[rows], "audio": audio}), y[rows])

    def draw(seed):
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(np.flatnonzero(y == digit)) for digit in range(CLASSES)]
        voices = [rng.permutation(200) for _ in range(CLASSES)]
        part = lambda of, first, last: np.concatenate(
            [of(digit)[first:last] for digit in range(CLASSES)]
        )
        of_image, of_sound = (
            (lambda digit: rows[digit]),
            (lambda digit: sound[digit, voices[digit]]),
        )
        pair = lambda first, last: batch(part(of_image, first, last), part(of_sound, first, last))
        others = part(of_image, ROWS, None)
        alone = batch(others, np.zeros((len(others), 360), np.float32))
        return (
            pair(0, ROWS),
            alone._replace(x=restrict(alone.x, ["image"])),
            pair(ROWS, ROWS + PAIRS),
        )

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(draw, range(seeds)))


def make_net(learner, seed):
    """A layer over the features of all modalities, where an absent one is zeros, or the mean of what is present."""
    rngs, inputs = (
        nnx.Rngs(seed),
        {"image": 784} if learner == "image only" else {"image": 784, "audio": 360},
    )
    encoders = {
        name: mj.nets.MLP(size, (HIDDEN,), WIDTH, rngs=rngs) for name, size in inputs.items()
    }
    deep = mj.nets.fusion.Deep(list(inputs), WIDTH, layers=1, rngs=rngs)
    fusion = mj.nets.fusion.mean if learner == "mean of what is there" else deep
    return mj.nets.functional(mj.nets.Multimodal(encoders, fusion, WIDTH, CLASSES, rngs=rngs))


def pick(batch, complete, low, high, number, key):
    """Examples, numbers `low` to `high` of random digits. The first `complete` of each digit have a recording."""
    keys = jax.random.split(key)
    row, digit = (
        jax.random.randint(keys[0], (number,), low, high),
        jax.random.randint(keys[1], (number,), 0, CLASSES),
    )
    chosen = mj.take(batch, digit * ROWS + row)
    return chosen._replace(
        x=chosen.x._replace(present={**chosen.x.present, "audio": row < complete})
    )


def descend(task_loss, sample, rate, steps, params, key):
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def step(state, key):
        sample_key, step_key = jax.random.split(key)
        tasks = jax.tree.map(lambda leaf: leaf[None], sample(sample_key))
        return outer.step(state, tasks, step_key)[0], None

    return jax.lax.scan(step, outer.init(params), jax.random.split(key, steps))[0].params


def known(learner, x):
    """What a learner sees of the modalities."""
    return (
        mj.Modalities(*({"image": tree["image"]} for tree in x)) if learner == "image only" else x
    )


def plain(learner, apply, steps, params, batch, key, setting, complete, rows):
    """Ordinary training on whatever there is; what is absent is for the fusion to deal with."""

    def sample(key):
        pick_key, drop_key = jax.random.split(key)
        chosen = pick(batch, complete, 0, rows, BATCH, pick_key)
        x = drop_modalities(chosen.x, {"audio": setting.drop}, drop_key)
        return chosen._replace(x=known(learner, x))

    loss = mj.losses.cross_entropy(apply)
    return descend(mj.supervised(loss), sample, setting.rate, steps, params, key)


def smil(apply, steps, params, batch, key, setting, complete, rows):
    """An inner step on examples that lack their recording, judged on those that have it."""
    noisy = mj.losses.cross_entropy(apply)
    quiet = mj.losses.cross_entropy(lambda params, x, key=None, *, reference=None: apply(params, x))
    inner = lambda *inputs: (
        setting.inner * noisy(*inputs)[0],
        {},
    )  # a step size that is no constant of the program
    adaptation = mj.inner_loop(inner, optax.sgd(1.0), steps=1)

    def outer(params, query, key):
        alone = query._replace(x=restrict(query.x, ["image"]))
        return quiet(params, query, key)[0] + setting.withheld * quiet(params, alone, key)[0], {}

    def task_loss(params, task, key):
        episode_key, key = jax.random.split(key)
        total, metrics = mj.query_loss(adaptation, outer)(params, task, episode_key)
        return total + setting.incomplete * noisy(params, task.support, key)[0], metrics

    def sample(key):
        keys = jax.random.split(key)
        incomplete = pick(batch, complete, complete, rows, BATCH // 2, keys[0])
        return mj.Task(incomplete, pick(batch, complete, 0, complete, BATCH // 2, keys[1]))

    return descend(task_loss, sample, setting.rate, steps, params, key)


def make_learner(learner, data, steps):
    """(setting, complete, rows) -> params of all seeds, side by side; and the network that they are of."""
    seeds, axes = len(data.y), (0, 0, 0, None, None, None)
    apply, keys = make_net(learner, 0)[0], jax.random.split(jax.random.key(0), seeds)
    start = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(make_net(learner, seed)[1] for seed in range(seeds))
    )
    if learner != "SMIL":
        train = jax.jit(jax.vmap(functools.partial(plain, learner, apply, steps), axes))
        return apply, functools.partial(train, start, data, keys)

    encode, decide = (functools.partial(apply, method=name) for name in ("encode", "decide"))
    encode_all, whole = jax.jit(jax.vmap(encode)), completed(encode, decide)
    fill = jax.jit(jax.vmap(functools.partial(plain, "zeros", apply, steps // 2), axes))
    train = jax.jit(jax.vmap(functools.partial(smil, whole, steps - steps // 2), axes))

    def learn(setting, complete, rows):
        params = fill(start, data, keys, START, complete, rows)
        features, row = encode_all(params, data.x), np.arange(CLASSES * ROWS) % ROWS
        starts = []
        for seed in range(seeds):
            value = {name: leaf[seed] for name, leaf in features.items()}
            seen = mj.Modalities(value, {"image": row < rows, "audio": row < complete})
            starts.append(
                init_completion(modality_priors(seen, PRIORS, seed=seed), jax.random.key(seed))
            )
        made = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        if not setting.noise:  # as narrow as to be none
            made["spread"] = {
                n: {**of, "bias": of["bias"] - 50} for n, of in made["spread"].items()
            }
        return train(
            params._replace(slow={"completion": made}), data, keys, setting, complete, rows
        )

    return whole, learn


def make_judge(learner, apply):
    """(params of all seeds, batch of all seeds) -> accuracy [seed]."""
    right = lambda params, batch: (apply(params, batch.x).argmax(axis=1) == batch.y).mean()
    judge = jax.jit(jax.vmap(right))
    return lambda params, batch: np.asarray(
        judge(params, batch._replace(x=known(learner, batch.x)))
    )


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


def measure(name, data, pictures, pairs, steps):
    """(settings tried, accuracy by pictures {percent: [seed]}, and by pairs): chooses a setting, then tests it."""
    apply, learn = make_learner(name, data, steps)
    judge, held = make_judge(name, apply), np.arange(CLASSES * ROWS) % ROWS >= ROWS - HELD
    validation = jax.tree.map(lambda leaf: leaf[:, held], data)
    validation = validation._replace(x=restrict(validation.x, ["image"]))
    values = [
        summary(judge(learn(s, COMPLETE[10], ROWS - HELD), validation)) for s in SETTINGS[name]
    ]
    best = SETTINGS[name][int(np.argmax([mean for mean, _ in values]))]
    tried = [
        s._asdict() | {"validation": v, "chosen": s == best}
        for s, v in zip(SETTINGS[name], values, strict=True)
    ]
    alone, heard = {}, {}
    for percent, complete in COMPLETE.items():
        if name != "image only" or not alone:  # recordings are nothing to it
            params = learn(best, complete, ROWS)
        alone[percent], heard[percent] = judge(params, pictures), judge(params, pairs)
    return tried, alone, heard


def report(measured):
    """A row for each learner and percentage, with its paired differences from those before it."""
    rows, before = [], []
    for name, (_, alone, heard) in measured.items():
        for percent, values in alone.items():
            minus = {other: summary(values - measured[other][1][percent]) for other in before}
            row = {"learner": name, "percent": percent, "accuracy": summary(values), "minus": minus}
            rows.append({**row, "with recordings": summary(heard[percent])})
        before.append(name)
    return rows


def main(options):
    started = time.perf_counter()
    data, pictures, pairs = read(options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    measured = {}
    for name in SETTINGS:
        measured[name] = measure(name, data, pictures, pairs, options.steps)
        print(
            *measured[name][0],
            f"{time.perf_counter() - started:.0f} s so far",
            sep="\n",
            flush=True,
        )
        print(*report(measured)[-len(COMPLETE) :], sep="\n", flush=True)
    header = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "threads": os.cpu_count(),
        "seconds": time.perf_counter() - started,
        "seeds": options.seeds,
        "steps": options.steps,
        "sizes": {
            "train": CLASSES * ROWS,
            "pictures": pictures.y.shape[1],
            "pairs": pairs.y.shape[1],
        },
        "settings": {name: tried for name, (tried, _, _) in measured.items()},
    }
    rows = report(measured)
    (options.out / "missing.json").write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")
    draw(rows, options.out / "missing.png")


def draw(rows, path):
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    titles = {
        "accuracy": "Test by pictures alone",
        "with recordings": "Test by pictures and recordings",
    }
    for axis, (what, title) in zip(axes, titles.items(), strict=True):
        lines = {}
        for name in SETTINGS:
            mean, half = np.array([row[what] for row in rows if row["learner"] == name]).T
            lines[name] = list(COMPLETE), mean, half
        labels = {
            "xlabel": f"of {CLASSES * ROWS} training examples with a recording / %",
            "ylabel": "accuracy / %",
        }
        mj.plots.curves(axis, lines, **labels, title=title)
        axis.set_xticks(list(COMPLETE))
    axes[0].get_legend().remove()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(parser.parse_args())
