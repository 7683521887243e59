"""A harder Omniglot for free: 20-way 1-shot within an alphabet that was not seen, with a prototypical network.

Trained on the 30 background alphabets, tested on each of the 20 evaluation alphabets that has 20 characters, in tasks
of characters of one alphabet. Training tasks are of one alphabet or of all, and affine augmentation transforms each
drawing by itself, or all drawings of a character alike, which makes new characters. For comparison, the usual random
20-way tasks of all evaluation characters. Intervals are over alphabets. Writes
benchmarks/results/alphabets.json and .png.

    METAJAX_DATA=folder python benchmarks/alphabets.py
    METAJAX_DATA=folder python benchmarks/alphabets.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import dataclasses
import functools
import pathlib

import harness
import jax
import optax
from flax import nnx

import metajax as mj
from metajax import data

WAYS, SHOTS, QUERIES = 20, 1, 5
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=4000)
parser.add_argument("--tasks", type=int, default=50, help="test tasks of each alphabet")
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

AFFINE = data.affine(degrees=10, translate=0.05, scale=(0.9, 1.1), shear=10)
WITHIN, ANY = data.grouped_episodes(WAYS, SHOTS, QUERIES), data.episodes(WAYS, SHOTS, QUERIES)
TRAINING = {
    "of all alphabets": ANY,
    "of all alphabets, characters transformed": data.augmented(
        ANY, AFFINE, group=lambda batch: batch.y
    ),
    "of all alphabets, drawings transformed": data.augmented(ANY, AFFINE),
    "of one alphabet, drawings transformed": data.augmented(WITHIN, AFFINE),
}


def learn(sample, source, options):
    """What is learned from such tasks, and how it is judged: (task loss, params, seconds)."""
    net = mj.nets.Conv4(WAYS, width=options.width, pool=True, rngs=nnx.Rngs(options.seed))
    apply, params = mj.nets.functional(net, fast=nnx.PathContains("head"))
    embed = functools.partial(apply, method="embed")
    task_loss = mj.query_loss(mj.prototypes(embed, WAYS), mj.losses.cross_entropy(apply))
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(2e-3, options.steps)))
    batch, key = data.meta_batch(sample, tasks=1), jax.random.key(options.seed)
    run = {"steps": options.steps, "fuse": 10, "every": options.steps}
    state, records = mj.training.fit(outer, outer.init(params), batch, source, key, **run)
    return task_loss, state.params, records[-1]["seconds"]


def judge(task_loss, params, tests):
    """Mean accuracy on each set of tasks."""
    run = jax.jit(functools.partial(mj.evaluate, task_loss, tasks_at_once=1))
    return {
        name: run(params, tasks, jax.random.key(1))["accuracy"].mean.item()
        for name, tasks in tests.items()
    }


def draw(report, evaluation, path):
    """Some characters, and the accuracy in each alphabet."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    characters, accuracies = figure.subplots(1, 2, width_ratios=[1, 1.1])
    short = [name.rpartition("images_evaluation/")[2] for name in evaluation.names]
    mj.plots.contact_sheet(
        characters, dataclasses.replace(evaluation, names=tuple(short)), classes=7, examples=8
    )
    order = sorted(report["rows"][0]["alphabets"], key=report["rows"][0]["alphabets"].get)
    for row in report["rows"]:
        accuracies.plot(
            [100 * row["alphabets"][name] for name in order],
            range(len(order)),
            "o",
            label=row["training"],
        )
    accuracies.set(
        yticks=range(len(order)), yticklabels=[name.rpartition("/")[2] for name in order]
    )
    accuracies.set(xlabel="20-way 1-shot accuracy within the alphabet, %")
    accuracies.legend(title="trained on tasks", fontsize="small", loc="upper left")
    figure.savefig(path, dpi=90)


def main(options):
    source = data.omniglot()
    split = data.omniglot_split(source.names)
    background, evaluation = (data.select_part(source, split, part) for part in ("train", "test"))
    alphabets = {
        name: number for name, number in data.describe(evaluation).groups.items() if number >= WAYS
    }
    tests = {}
    for name in alphabets:
        one = data.select(
            evaluation, lambda class_name, name=name: data.group_of(class_name) == name
        )
        tests[name] = data.meta_batch(ANY, options.tasks)(one, jax.random.key(2))
    random = {
        "random": data.meta_batch(ANY, options.tasks * len(tests))(evaluation, jax.random.key(3))
    }
    rows = []
    for name, sample in TRAINING.items():
        task_loss, params, seconds = learn(sample, background, options)
        within = judge(task_loss, params, tests)
        summary = mj.summarize(jax.numpy.array([*within.values()]))
        row = {"training": name, "seconds": seconds, "accuracy": 100 * float(summary.mean)}
        row |= {"interval": 100 * float(summary.interval), "alphabets": within}
        row |= {"random": 100 * judge(task_loss, params, random)["random"]}
        print(
            "{training}: {accuracy:.1f} ± {interval:.1f} % within, {random:.1f} % random".format(
                **row
            ),
            flush=True,
        )
        rows.append(row)
    setting = {
        "split": split.name,
        "digest": split.digest,
        "steps": options.steps,
        "tasks": options.tasks,
    }
    report = harness.header(seed=options.seed, **setting, rows=rows)
    harness.save(options.out, "alphabets", report)
    draw(report, evaluation, options.out / "alphabets.png")


if __name__ == "__main__":
    options = parser.parse_args()
    if options.tiny:
        options.steps, options.tasks, options.width = 10, 2, 8
        TRAINING = dict([TRAINING.popitem()])
    main(options)
