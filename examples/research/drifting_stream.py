"""A stream whose five labels mean new characters every 40 examples, and who keeps up.

Five Omniglot characters come in random order, eight examples of each. Then five that are drawn anew
take over their labels, and so on, four times; all characters are new to the nets. Each five
examples are predicted before their labels are learned from. Two ways to learn from a chunk:

- a step of descent of the head, whose step sizes are learned, or chosen on validation streams;
- the class means of the last examples, the simplest learner that forgets; how many is chosen, too.

The net is trained by classification, and then for the same time either by more classification, or
through whole streams (`online`).

Reads `omniglot.npz` from the folder that METAJAX_DATA names.

    METAJAX_DATA=folder python examples/research/drifting_stream.py --out .
"""

import functools
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 5
    shots: int = 8  # examples of a character
    drifts: int = 4  # sets of characters in a stream
    chunk: int = 5
    width: int = 32
    steps: int = 300  # through streams
    pretraining_steps: int = 3000
    streams: int = 2  # in a step
    test_streams: int = 200
    rates: tuple = (0.003, 0.01, 0.03, 0.1, 0.3)
    windows: tuple = (10, 20, 30, 40)  # examples of which class means are taken


TINY = Config(
    ways=2, shots=2, drifts=2, chunk=2, width=8, steps=2, pretraining_steps=2, test_streams=2,
    rates=(0.1,), windows=(4,),
)  # fmt: skip
PARTS = {"train": 1100, "validation": 100, "test": 423}


def stream(config):
    """(dataset, key) -> a stream as the support set of a task; no character comes twice."""
    draw = mj.data.episodes(config.ways * config.drifts, config.shots, queries=1)
    each = config.ways * config.shots  # examples between two drifts

    def sample(dataset, key):
        draw_key, order_key = jax.random.split(key)
        task = draw(dataset, draw_key)  # its examples are sorted by class
        starts = each * jnp.arange(config.drifts)
        mix = lambda start, key: start + jax.random.permutation(key, each)
        order = jax.vmap(mix)(starts, jax.random.split(order_key, config.drifts)).ravel()
        numbered = lambda batch: batch._replace(y=batch.y % config.ways)
        return mj.Task(numbered(mj.inner.take(task.support, order)), numbered(task.query))

    return sample


def make_net(outputs, config):
    """A net whose statistics are of each image alone, as a stream needs them."""
    norm = mj.nets.GroupNorm
    return mj.nets.Conv4(outputs, width=config.width, norm=norm, rngs=nnx.Rngs(0))


def head(params, features, key=None, *, reference=None):
    """Logits of features, by the head among the fast weights."""
    found = params.fast["head"]
    return features @ found["kernel"] + found["bias"][None]


HEAD_LOSS = mj.losses.cross_entropy(head)


def descent(config, rate):
    """A step of descent of the head after each chunk."""
    step = mj.inner_loop(HEAD_LOSS, rate, steps=1)
    return mj.online(step, HEAD_LOSS, chunk=config.chunk)


def means(config, window):
    """The class means of so many of the last examples."""
    prototypes = mj.prototypes(mj.nets.identity_encoder, config.ways)
    return mj.online(prototypes, HEAD_LOSS, chunk=config.chunk, window=window)


def read_images(apply, params, task):
    """The task with features in place of images, which are computed once for a stream."""
    features = apply(params, task.support.x, method="embed")
    return task._replace(support=task.support._replace(x=features))


def accuracies(learner, apply, params, streams):
    """The accuracy of each chunk of each stream, [streams, chunks]."""

    def one(task):
        support = read_images(apply, params, task).support
        return learner.scores(params, support, jax.random.key(0)).metrics["accuracy"]

    return np.asarray(jax.jit(lambda streams: jax.lax.map(one, streams))(streams))


def trained(loop, params, sample, source, steps):
    """The params after so many steps."""
    state, _ = mj.training.fit(
        loop, loop.init(params), sample, source, jax.random.key(1), steps=steps, every=steps
    )
    return state.params


def main(config, out):
    """Trains both nets, and draws the accuracy along the stream."""
    started = time.perf_counter()
    source = mj.data.omniglot()
    split = mj.data.draw_split(source.names, PARTS)
    parts = {part: mj.data.select_part(source, split, part) for part in PARTS}
    draw = stream(config)
    tests = mj.data.meta_batch(draw, config.test_streams)
    unseen = jax.jit(tests)(parts["test"], jax.random.key(2))
    tries = jax.jit(tests)(parts["validation"], jax.random.key(3))
    apply, start = mj.nets.functional(make_net(config.ways, config))
    only_head = functools.partial(
        mj.nets.split_params, is_fast=lambda path: path.startswith("head")
    )
    adam = lambda steps: optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    union = mj.algorithms.pretraining(make_net(parts["train"].classes, config))
    batches = mj.data.meta_batch(mj.data.batches(64), 1)

    def classification(params, steps):
        loop = mj.outer_loop(union.task_loss, adam(steps))
        return trained(loop, params, batches, parts["train"], steps)

    def without_head(params):
        zeros = jax.tree.map(jnp.zeros_like, start.fast["head"])
        return only_head(params._replace(fast={**params.fast, "head": zeros}))

    def best(learners, params):
        """The value whose learner is best on validation streams."""
        scores = {
            value: accuracies(learner, apply, params, tries).mean()
            for value, learner in learners.items()
        }
        return max(scores, key=scores.get)

    begun = time.perf_counter()
    classified = classification(union.params, config.pretraining_steps)
    of_pretraining = time.perf_counter() - begun
    frozen = without_head(classified)
    window = best({value: means(config, value) for value in config.windows}, frozen)
    rates = {value: descent(config, optax.sgd(value)) for value in config.rates}

    found, begun = {}, time.perf_counter()
    for name, learner in {
        "streams, descent": descent(config, mj.inner.leaf_rates(0.1)),
        "streams, class means": means(config, window),
    }.items():
        task_loss = lambda params, task, key, learner=learner: learner.task_loss(
            params, read_images(apply, params, task), key
        )
        params = learner.adaptation.init(frozen, jax.random.key(0))
        loop = mj.outer_loop(task_loss, adam(config.steps))
        sample = mj.data.meta_batch(draw, config.streams)
        params = trained(loop, params, sample, parts["train"], config.steps)
        found[name] = accuracies(learner, apply, params, unseen)
    of_streams = (time.perf_counter() - begun) / 2

    more = max(round(config.pretraining_steps * of_streams / of_pretraining), 1)
    frozen = without_head(classification(classified, more))
    rate = best(rates, frozen)
    found["classification, descent"] = accuracies(rates[rate], apply, frozen, unseen)
    learner = means(config, window)
    found["classification, class means"] = accuracies(learner, apply, frozen, unseen)

    for name, each in found.items():
        print(f"{name:<30}", common.cell(common.percent(each.mean(axis=1))))
    control = found["classification, class means"].mean(axis=1)
    report = {
        **common.header(),
        "digest": split.digest,
        "rate": rate,
        "window": window,
        "steps": {"classification": [config.pretraining_steps, more], "streams": config.steps},
        "chunk": config.chunk,
        "drift": config.ways * config.shots,
        "rows": {
            name: {
                "accuracy": common.percent(each.mean(axis=1)),
                "minus class means of classification": common.percent(each.mean(axis=1) - control),
                "chunks": np.round(100 * each.mean(axis=0), 2).tolist(),
            }
            for name, each in found.items()
        },
    }
    print(f"in {time.perf_counter() - started:.0f} s")
    common.finish(out, "drifting_stream", report, plot)


def plot(report, path):
    """The accuracy along the stream, a line for each learner."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for name, row in report["rows"].items():
        examples = report["chunk"] * np.arange(len(row["chunks"]))
        axes.plot(examples, row["chunks"], marker=".", label=name)
    for drift in range(report["drift"], int(examples[-1]) + 1, report["drift"]):
        axes.axvline(drift, color="0.8", zorder=0)
    axes.set(xlabel="examples learned from", ylabel="accuracy of the next five, %", ylim=(0, 100))
    figure.legend(*axes.get_legend_handles_labels(), ncols=2, loc="outside upper center")
    common.save(figure, path, "one seed; means over new streams; lines: new characters")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
