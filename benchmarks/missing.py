"""Recordings that are missing in most of the training and in all of the test, on digits.

SMIL and simpler learners, in the setting of Ma et al. 2021 (arXiv 2103.05677, avMNIST): 105 written
digits of each class to learn from, of which 5 to 20 % come with a recording of the spoken digit,
and pictures alone in the test. Reads `mnist.npz` and `fsdd.npz` from the folder that METAJAX_DATA
names. Each seed draws its 1 050 examples. It is tested on all other 8 950 pictures, and also on 450
of them with new recordings. Settings are chosen first, on a fifth of the training examples, at
10 %.

All learners have the same encoders, small enough for two cores, and take the same number of steps.
SMIL spends half of them on zero-filling, where it starts. Like its authors' code it descends more
than its equation: also the loss of incomplete examples, and that of complete ones without their
recording. Their weights are settings, and the equation alone is among those to choose from.
Intervals are over seeds, and differences are paired by seed. Writes
benchmarks/results/missing.json and .png.

METAJAX_DATA=folder python benchmarks/missing.py
"""

import argparse
import functools
import pathlib
import time
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
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

CLASSES = 10
ROWS = 105  # examples of each class to learn from
HELD_OUT = 21  # of these, to choose settings on
PAIRS = 45  # test examples of each class with a recording
WIDTH, HIDDEN, BATCH, PRIORS = 32, 96, 64, 10
COMPLETE = {5: 5, 10: 10, 15: 16, 20: 21}
"""{percent of the training examples with a recording: how many of the 105 of a class}."""


class Setting(NamedTuple):
    """Numbers only, so that a program is compiled once for all of them.

    Attributes:
        rate: step size of Adam, which decays to zero.
        drop: how often a recording is left out in training.
        inner: step size of the inner step. This and all that follow are of SMIL alone.
        incomplete: weight of the loss of incomplete examples in the outer loop.
        withheld: weight of the loss of complete examples without their recording.
        noise: 0 for none.
    """

    rate: float = 3e-3
    drop: float = 0.0
    inner: float = 0.1
    incomplete: float = 1.0
    withheld: float = 1.0
    noise: float = 1.0


RATES = (3e-3, 1e-2, 3e-2)
START = Setting(1e-2)  # SMIL starts from zero-filling at this rate
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
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def spectrograms():
    """The loudness of 40 bands in 9 parts of every recording, at mean 0 and variance 1.

    [digit, 200, 360].
    """
    spoken = mj.data.spoken_digits()
    mel = jax.jit(lambda wave: mj.nets.log_mel(wave / 32768.0, rate=8000, hop=0.02))(spoken.x)
    parts = np.asarray(mel)[:, :36].reshape(-1, 9, 4, 40).mean(axis=2)
    mel = parts.reshape(CLASSES, 200, 360)
    return (mel - mel.mean(axis=2, keepdims=True)) / mel.std(axis=2, keepdims=True)


class Examples(NamedTuple):
    """Batches with a leading axis of seeds.

    Attributes:
        train: examples to learn from, sorted by digit, all with a recording.
        pictures: all other pictures, without a recording.
        pairs: 450 of these pictures with new recordings.
    """

    train: mj.Batch
    pictures: mj.Batch
    pairs: mj.Batch


def read(seeds):
    """The examples of this many seeds."""
    written = mj.data.written_digits()
    image = np.asarray(written.x, np.float32).reshape(-1, 784) / 255
    y = np.asarray(written.y)
    sound = spectrograms()

    def draw(seed):
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(np.flatnonzero(y == digit)) for digit in range(CLASSES)]
        voices = [sound[digit, rng.permutation(200)] for digit in range(CLASSES)]

        def pairs(first, last):
            number = np.concatenate([mine[first:last] for mine in rows])
            audio = np.concatenate([mine[first:last] for mine in voices])
            x = mj.data.as_modalities({"image": image[number], "audio": audio})
            return mj.Batch(x, y[number])

        others = np.concatenate([mine[ROWS:] for mine in rows])
        silence = np.zeros((len(others), 360), np.float32)
        x = mj.data.as_modalities({"image": image[others], "audio": silence})
        pictures = mj.Batch(restrict(x, ["image"]), y[others])
        return Examples(pairs(0, ROWS), pictures, pairs(ROWS, ROWS + PAIRS))

    return stack([draw(seed) for seed in range(seeds)])


def stack(trees):
    """One tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def make_net(learner, seed):
    """(apply, params) of a net with one layer over the features of all modalities.

    An absent modality counts as zeros, or as the mean of what is present.
    """
    rngs = nnx.Rngs(seed)
    inputs = {"image": 784}
    if learner != "image only":
        inputs["audio"] = 360
    encoders = {}
    for name, size in inputs.items():
        encoders[name] = mj.nets.MLP(size, (HIDDEN,), WIDTH, rngs=rngs)
    fusion = mj.nets.fusion.Deep(list(inputs), WIDTH, layers=1, rngs=rngs)
    if learner == "mean of what is there":
        fusion = mj.nets.fusion.mean
    return mj.nets.functional(mj.nets.Multimodal(encoders, fusion, WIDTH, CLASSES, rngs=rngs))


def pick(batch, complete, low, high, number, key):
    """Examples of random digits, whose number in their class is from `low` to `high`.

    The first `complete` of each digit have a recording.
    """
    row_key, digit_key = jax.random.split(key)
    row = jax.random.randint(row_key, (number,), low, high)
    digit = jax.random.randint(digit_key, (number,), 0, CLASSES)
    chosen = mj.take(batch, digit * ROWS + row)
    present = {**chosen.x.present, "audio": row < complete}
    return chosen._replace(x=chosen.x._replace(present=present))


def descend(task_loss, sample, rate, steps, params, key):
    """Params after this many outer steps of one task."""
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def step(state, key):
        sample_key, step_key = jax.random.split(key)
        tasks = jax.tree.map(lambda leaf: leaf[None], sample(sample_key))
        state, _ = outer.step(state, tasks, step_key)
        return state, None

    state, _ = jax.lax.scan(step, outer.init(params), jax.random.split(key, steps))
    return state.params


def visible(learner, x):
    """The modalities that a learner reads."""
    if learner != "image only":
        return x
    return mj.Modalities({"image": x.value["image"]}, {"image": x.present["image"]})


def plain(learner, apply, steps, params, batch, key, setting, complete, rows):
    """Ordinary training on all modalities that are present; the fusion handles absent ones."""

    def sample(key):
        pick_key, drop_key = jax.random.split(key)
        chosen = pick(batch, complete, 0, rows, BATCH, pick_key)
        x = drop_modalities(chosen.x, {"audio": setting.drop}, drop_key)
        return chosen._replace(x=visible(learner, x))

    loss = mj.losses.cross_entropy(apply)
    return descend(mj.supervised(loss), sample, setting.rate, steps, params, key)


def smil(apply, steps, params, batch, key, setting, complete, rows):
    """An inner step on examples without a recording; the outer loss is of those with one."""
    deterministic, _ = mj.nets.from_function(lambda params, x: apply(params, x))
    noisy = mj.losses.cross_entropy(apply)
    quiet = mj.losses.cross_entropy(deterministic)

    def inner(params, batch, key):
        # The step size multiplies the loss, so that it is no constant of the program.
        value, _ = noisy(params, batch, key)
        return setting.inner * value, {}

    def outer(params, query, key):
        alone = query._replace(x=restrict(query.x, ["image"]))
        whole, _ = quiet(params, query, key)
        without, _ = quiet(params, alone, key)
        return whole + setting.withheld * without, {}

    episode = mj.query_loss(mj.inner_loop(inner, optax.sgd(1.0), steps=1), outer)

    def task_loss(params, task, key):
        episode_key, key = jax.random.split(key)
        total, metrics = episode(params, task, episode_key)
        value, _ = noisy(params, task.support, key)
        return total + setting.incomplete * value, metrics

    def sample(key):
        support_key, query_key = jax.random.split(key)
        support = pick(batch, complete, complete, rows, BATCH // 2, support_key)
        query = pick(batch, complete, 0, complete, BATCH // 2, query_key)
        return mj.Task(support, query)

    return descend(task_loss, sample, setting.rate, steps, params, key)


OVER_SEEDS = (0, 0, 0, None, None, None)
"""Axes of (params, batch, key, setting, complete, rows)."""


def make_learner(learner, train, steps):
    """(apply, learn): learn(setting, complete, rows) -> params of all seeds, side by side."""
    seeds = len(train.y)
    apply, _ = make_net(learner, 0)
    keys = jax.random.split(jax.random.key(0), seeds)
    start = stack([make_net(learner, seed)[1] for seed in range(seeds)])
    if learner == "SMIL":
        return make_smil(apply, start, train, keys, steps)
    one = functools.partial(plain, learner, apply, steps)
    learn = jax.jit(jax.vmap(one, OVER_SEEDS))
    return apply, functools.partial(learn, start, train, keys)


def make_smil(apply, start, train, keys, steps):
    """(apply, learn) of SMIL, whose first half of the steps is zero-filling."""
    encode = functools.partial(apply, method="encode")
    decide = functools.partial(apply, method="decide")
    encode_all = jax.jit(jax.vmap(encode))
    whole = completed(encode, decide)
    fill = functools.partial(plain, "zeros", apply, steps // 2)
    fill = jax.jit(jax.vmap(fill, OVER_SEEDS))
    descend_all = functools.partial(smil, whole, steps - steps // 2)
    descend_all = jax.jit(jax.vmap(descend_all, OVER_SEEDS))
    row = np.arange(CLASSES * ROWS) % ROWS

    def learn(setting, complete, rows):
        params = fill(start, train, keys, START, complete, rows)
        features = encode_all(params, train.x)
        present = {"image": row < rows, "audio": row < complete}
        completions = []
        for seed in range(len(keys)):
            value = {name: leaf[seed] for name, leaf in features.items()}
            priors = modality_priors(mj.Modalities(value, present), PRIORS, seed=seed)
            completions.append(init_completion(priors, jax.random.key(seed)))
        completion = stack(completions)
        if not setting.noise:
            completion["spread"] = without_spread(completion["spread"])
        params = params._replace(slow={"completion": completion})
        return descend_all(params, train, keys, setting, complete, rows)

    return whole, learn


def without_spread(spread):
    """The layers of the noise, with a bias that makes it too small to matter."""
    return {name: {**layer, "bias": layer["bias"] - 50} for name, layer in spread.items()}


def make_score(learner, apply):
    """(params of all seeds, batch of all seeds) -> accuracy [seed]."""

    @jax.jit
    @jax.vmap
    def accuracy(params, batch):
        return (apply(params, batch.x).argmax(axis=1) == batch.y).mean()

    def score(params, batch):
        return np.asarray(accuracy(params, batch._replace(x=visible(learner, batch.x))))

    return score


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    mean, half = mj.summarize(jnp.asarray(values))[:2]
    return [100 * float(mean), 100 * float(half)]


class Measured(NamedTuple):
    """What was measured of a learner.

    Attributes:
        tried: the settings, with their accuracy on the held out examples.
        pictures: {percent: accuracy [seed] by pictures}.
        pairs: {percent: accuracy [seed] by pictures and recordings}.
    """

    tried: list
    pictures: dict
    pairs: dict


def measure(name, examples, steps):
    """Chooses a setting, then tests it."""
    apply, learn = make_learner(name, examples.train, steps)
    score = make_score(name, apply)
    best, tried = choose(name, examples.train, learn, score)
    pictures = {}
    pairs = {}
    for percent, complete in COMPLETE.items():
        if name != "image only" or not pictures:  # one result for every percentage
            params = learn(best, complete, ROWS)
        pictures[percent] = score(params, examples.pictures)
        pairs[percent] = score(params, examples.pairs)
    return Measured(tried, pictures, pairs)


def choose(name, train, learn, score):
    """(the best setting, all settings with their accuracy on the held out examples)."""
    held_out = np.arange(CLASSES * ROWS) % ROWS >= ROWS - HELD_OUT
    validation = jax.tree.map(lambda leaf: leaf[:, held_out], train)
    validation = validation._replace(x=restrict(validation.x, ["image"]))
    values = []
    for setting in SETTINGS[name]:
        params = learn(setting, COMPLETE[10], ROWS - HELD_OUT)
        values.append(summary(score(params, validation)))
    best = SETTINGS[name][int(np.argmax([mean for mean, _ in values]))]
    tried = []
    for setting, value in zip(SETTINGS[name], values, strict=True):
        tried.append(setting._asdict() | {"validation": value, "chosen": setting == best})
    return best, tried


def report(measured):
    """A row for each learner and percentage, with its paired differences from learners before."""
    rows = []
    before = {}
    for name, one in measured.items():
        for percent, values in one.pictures.items():
            minus = {}
            for other, result in before.items():
                minus[other] = summary(values - result.pictures[percent])
            rows.append(
                {
                    "learner": name,
                    "percent": percent,
                    "accuracy": summary(values),
                    "minus": minus,
                    "with recordings": summary(one.pairs[percent]),
                }
            )
        before[name] = one
    return rows


def draw(rows, path):
    """Accuracy of every learner, for each percentage of examples with a recording."""
    import matplotlib
    from matplotlib.figure import Figure

    titles = {
        "accuracy": "Test by pictures alone",
        "with recordings": "Test by pictures and recordings",
    }
    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(11, 5))
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axis, (what, title) in zip(panels, titles.items(), strict=True):
            measured = {}
            for row in rows:
                setting = f"{row['percent']} % with a recording"
                measured.setdefault(setting, {})[row["learner"]] = row[what]
            mj.plots.dot_plot(axis, measured, xlabel="accuracy, %", title=title)
        panels[1].get_legend().remove()
        figure.supxlabel("95 % intervals over seeds of training", fontsize=8, color="0.4")
        figure.savefig(path)


def main(options):
    started = time.perf_counter()
    examples = read(options.seeds)
    measured = {}
    for name in SETTINGS:
        measured[name] = measure(name, examples, options.steps)
        print(*measured[name].tried, sep="\n")
        print(*report(measured)[-len(COMPLETE) :], sep="\n")
        print(f"{time.perf_counter() - started:.0f} s so far", flush=True)
    rows = report(measured)
    result = harness.brief_header() | {
        "seconds": time.perf_counter() - started,
        "seeds": options.seeds,
        "steps": options.steps,
        "sizes": {
            "train": CLASSES * ROWS,
            "pictures": examples.pictures.y.shape[1],
            "pairs": examples.pairs.y.shape[1],
        },
        "settings": {name: one.tried for name, one in measured.items()},
        "rows": rows,
    }
    harness.save(options.out, "missing", result)
    draw(rows, options.out / "missing.png")


if __name__ == "__main__":
    main(parser.parse_args())
