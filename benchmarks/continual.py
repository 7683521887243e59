"""A stream of 50 Omniglot characters, five at a time: what is known, and what is forgotten.

Every character of a stream is new. Five examples of each come one after the other, a step of SGD is
taken on each, and after every five characters all characters are asked for. The nets are trained on
other characters: by classification of all of them, or as OML, through whole streams, for about the
same time. Then

- frozen features and the mean of each class, which cannot forget;
- frozen features and a head that is learned online;
- the whole net, fine-tuned online;
- OML, whose features and head are learned for this, and class means on its features.

Step sizes of the two fine-tuned rows are chosen on validation streams. Intervals are over streams.
Writes benchmarks/results/continual.json and .png.

METAJAX_DATA=folder python benchmarks/continual.py
METAJAX_DATA=folder python benchmarks/continual.py --tiny --out /tmp/results    # that it runs
"""

import argparse
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
from metajax import algorithms, inner, outer

CHARACTERS = {"train": 1100, "validation": 100, "test": 423}
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=1500, help="outer steps of OML")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Sizes(NamedTuple):
    """Sizes of a run.

    Attributes:
        ways: characters of a task.
        tasks: tasks of a stream.
        shots: examples of a character.
        width: channels of the net.
        streams: of the test.
        trials: validation streams, on which step sizes are chosen.
        rates: step sizes that are tried.
    """

    ways: int = 5
    tasks: int = 10
    shots: int = 5
    width: int = 64
    streams: int = 50
    trials: int = 10
    rates: tuple = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


TINY = Sizes(ways=2, tasks=2, shots=1, width=8, streams=2, trials=2, rates=(0.1,))
ONLINE_RATE = 0.1  # of OML
PER_STEP = 4  # steps of classification that take as long as one of OML


def make_net(outputs, sizes):
    """A convolutional net whose statistics are of each image alone, as a stream needs them."""
    return mj.nets.Conv4(outputs, width=sizes.width, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(0))


def oml(sizes):
    """OML on features that are computed once for a stream: (learner, loss of the net)."""
    learner = algorithms.oml(make_net(sizes.ways * sizes.tasks, sizes), inner_rate=ONLINE_RATE)
    embed = lambda params, x, key=None, *, reference=None: learner.apply(
        params, x, key, method="embed", reference=reference
    )
    head_loss = mj.losses.cross_entropy(head_on_features)
    step = mj.inner_loop(head_loss, optax.sgd(ONLINE_RATE), steps=1)
    stream = inner.on_features(embed, mj.online(step, head_loss, chunk=1).adaptation)
    of_net = mj.losses.cross_entropy(learner.apply)
    return learner._replace(adaptation=stream, task_loss=mj.query_loss(stream, of_net)), of_net


def head_on_features(params, features, key=None, *, reference=None):
    """Logits of features, by the head among the fast weights."""
    head = params.fast["head"]
    return features @ head["kernel"] + head["bias"][None]


def trained(learner, sample, source, steps, tasks=1):
    """(params, seconds) after so many steps."""
    started = time.perf_counter()
    schedule = optax.cosine_decay_schedule(1e-3, steps)
    loop = mj.outer_loop(learner.task_loss, optax.adam(schedule))
    state, _ = mj.training.fit(
        loop,
        loop.init(learner.params),
        mj.data.meta_batch(sample, tasks=tasks),
        source,
        jax.random.key(0),
        steps=steps,
        every=max(steps // 10, 1),
    )
    return state.params, time.perf_counter() - started


def online_head(embed, rate):
    """Learns the head of frozen features, from zeros: (adaptation, loss)."""
    loss = mj.losses.cross_entropy(
        lambda params, x, key, reference: head_on_features(params, embed(x))
    )
    step = mj.inner_loop(loss, optax.sgd(rate), steps=1)
    return mj.online(step, loss, chunk=1).adaptation, loss


def online_net(apply, rate):
    """Fine-tunes everything: (adaptation, loss)."""
    loss = mj.losses.cross_entropy(apply)
    step = mj.inner_loop(loss, optax.sgd(rate), steps=1)
    return mj.online(step, loss, chunk=1).adaptation, loss


def class_means(embed):
    """Remembers the mean of each class that was seen: (adaptation, loss)."""

    def adapt(params, support, key):
        means, seen = params.fast["means"], params.fast["seen"]
        features = embed(support.x)
        sums = jnp.zeros_like(means).at[support.y].add(features)
        counts = jnp.zeros_like(seen).at[support.y].add(1)
        is_new = counts > 0
        new = sums / jnp.maximum(counts, 1)[:, None]
        fast = {"means": jnp.where(is_new[:, None], new, means), "seen": seen + counts}
        return params._replace(fast=fast)

    def apply(params, x, key, reference):
        distances = ((embed(x)[:, None] - params.fast["means"][None]) ** 2).sum(axis=2)
        return jnp.where(params.fast["seen"][None] > 0, -distances, -1e9)

    return mj.Adaptation(lambda params, key: params, adapt), mj.losses.cross_entropy(apply)


def measure(adaptation, loss, params, streams):
    """{metric: Summary} over streams."""
    in_turn = outer.continual_loss(adaptation, loss)
    return mj.evaluate(in_turn, params, streams, jax.random.key(0), tasks_at_once=1)


def chosen(make, params, streams, rates):
    """(rate, {rate: accuracy}) of the best step size on these streams."""
    found = {}
    for rate in rates:
        accuracy = measure(*make(rate), params, streams)["accuracy"].mean
        found[rate] = float(accuracy) if np.isfinite(accuracy) else 0.0
    return max(found, key=found.get), found


def main(options):
    sizes = TINY if options.tiny else Sizes()
    steps = 2 if options.tiny else options.steps
    source = mj.data.omniglot()
    split = mj.data.draw_split(source.names, CHARACTERS, seed=0)
    parts = {part: mj.data.select_part(source, split, part) for part in CHARACTERS}
    draw = mj.data.continual(sizes.ways, sizes.tasks, sizes.shots, queries=5)
    test = jax.jit(mj.data.meta_batch(draw, sizes.streams))(parts["test"], jax.random.key(1))
    tries = mj.data.meta_batch(draw, sizes.trials)(parts["validation"], jax.random.key(2))
    classes = sizes.ways * sizes.tasks

    union = algorithms.pretraining(make_net(parts["train"].classes, sizes))
    union_params, union_seconds = trained(
        union, mj.data.batches(128), parts["train"], PER_STEP * steps
    )
    learner, of_net = oml(sizes)
    episodes = mj.data.episodes(classes, sizes.shots, queries=3)
    oml_params, oml_seconds = trained(learner, episodes, parts["train"], steps)

    frozen = lambda apply, params: lambda x: apply(params, x, method="embed")
    by_union = frozen(union.apply, union_params)
    by_oml = frozen(learner.apply, oml_params)
    width = by_union(parts["test"].x[:1] / 255).shape[1]
    zeros = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
    empty = mj.Params({"means": jnp.zeros((classes, width)), "seen": jnp.zeros(classes)}, {})
    only_head = mj.Params({"head": zeros}, {})
    with_head = union_params._replace(fast={**union_params.fast, "head": zeros})
    head_rate, head_tries = chosen(
        lambda rate: online_head(by_union, rate), only_head, tries, sizes.rates
    )
    net_rate, net_tries = chosen(
        lambda rate: online_net(union.apply, rate), with_head, tries, sizes.rates
    )
    learners = {
        "frozen features, class means": (*class_means(by_union), empty),
        "frozen features, head learned online": (*online_head(by_union, head_rate), only_head),
        "whole net, fine-tuned online": (*online_net(union.apply, net_rate), with_head),
        "OML": (learner.adaptation, of_net, oml_params),
        "OML's features, class means": (*class_means(by_oml), empty),
    }
    rows, reference = [], None
    for name, arguments in learners.items():
        found = measure(*arguments, test)
        accuracy = found["accuracy"].per_task
        reference = accuracy if reference is None else reference
        difference = mj.summarize(accuracy - reference)
        row = {"learner": name}
        for metric in ("accuracy", "learned", "forgotten"):
            row[metric] = in_percent(found[metric])
        row["minus class means"] = in_percent(difference)
        row["matrix"] = np.round(100 * np.asarray(found["matrix"].mean), 1).tolist()
        rows.append(row)
        print({key: value for key, value in row.items() if key != "matrix"}, flush=True)
    report = harness.header(
        seed=0,
        steps=steps,
        seconds={"classification": union_seconds, "OML": oml_seconds},
        rates={"head": [head_rate, head_tries], "whole net": [net_rate, net_tries]},
        digest=split.digest,
        sizes=sizes._asdict(),
        rows=rows,
    )
    harness.save(options.out, "continual", report)
    draw_matrices(rows, options.out / "continual.png")


def in_percent(summary):
    """[mean, half its interval] in percent."""
    return [100 * float(summary.mean), 100 * float(summary.interval)]


def draw_matrices(rows, path):
    """What is known of each task (columns) after each task (rows)."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(2.6 * len(rows), 3.0))
        for axis, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
            shown = axis.imshow(row["matrix"], vmin=0, vmax=100, cmap="viridis")
            axis.set_title(row["learner"].replace(", ", ",\n"), fontsize=8)
            axis.set_xlabel("asked for task", fontsize=8)
        figure.axes[0].set_ylabel("after task", fontsize=8)
        figure.colorbar(shown, ax=figure.axes, label="accuracy, %", shrink=0.8)
        figure.savefig(path)


if __name__ == "__main__":
    main(parser.parse_args())
