"""A harder Omniglot without new data: 20-way 1-shot within an unseen alphabet.

A prototypical network is trained on the 30 background alphabets and tested on each of the 20
evaluation alphabets that has 20 characters, in tasks of characters of one alphabet. Training tasks
are of one alphabet or of all, and affine augmentation transforms each drawing by itself, or all
drawings of a character alike, which makes new characters. For comparison, there are also the usual
random 20-way tasks of all evaluation characters. Intervals are over alphabets. Writes
benchmarks/results/alphabets.json and .png.

METAJAX_DATA=folder python benchmarks/alphabets.py
METAJAX_DATA=folder python benchmarks/alphabets.py --tiny --out /tmp/results
"""

import argparse
import dataclasses
import functools
import pathlib

import harness
import jax
import jax.numpy as jnp
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
parser.add_argument("--tiny", action="store_true", help="to see that it runs")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

AFFINE = data.affine(degrees=10, translate=0.05, scale=(0.9, 1.1), shear=10)
WITHIN = data.grouped_episodes(WAYS, SHOTS, QUERIES)
ANY = data.episodes(WAYS, SHOTS, QUERIES)
TRAINING = {
    "of all alphabets": ANY,
    "of all alphabets, characters transformed": data.augmented(
        ANY, AFFINE, group=lambda batch: batch.y
    ),
    "of all alphabets, drawings transformed": data.augmented(ANY, AFFINE),
    "of one alphabet, drawings transformed": data.augmented(WITHIN, AFFINE),
}


def learn(sample, source, options):
    """(task loss, params, seconds) of a net that is trained on such tasks."""
    net = mj.nets.Conv4(WAYS, width=options.width, pool=True, rngs=nnx.Rngs(options.seed))
    apply, params = mj.nets.functional(net, fast=nnx.PathContains("head"))
    embed = functools.partial(apply, method="embed")
    task_loss = mj.query_loss(mj.prototypes(embed, WAYS), mj.losses.cross_entropy(apply))
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(2e-3, options.steps)))
    state, records = mj.training.fit(
        outer,
        outer.init(params),
        data.meta_batch(sample, tasks=1),
        source,
        jax.random.key(options.seed),
        steps=options.steps,
        fuse=10,
        every=options.steps,
    )
    return task_loss, state.params, records[-1]["seconds"]


def accuracies(task_loss, params, tests):
    """{name: mean accuracy} on each set of tasks."""
    run = jax.jit(functools.partial(mj.evaluate, task_loss, tasks_at_once=1))
    found = {}
    for name, tasks in tests.items():
        summary = run(params, tasks, jax.random.key(1))["accuracy"]
        found[name] = summary.mean.item()
    return found


def test_tasks(evaluation, number):
    """{alphabet: tasks of its characters}, for the alphabets with enough of them."""
    draw = jax.jit(data.meta_batch(ANY, number))
    tests = {}
    for alphabet in large_alphabets(evaluation):
        one = data.select(evaluation, functools.partial(is_of, alphabet))
        tests[alphabet] = draw(one, jax.random.key(2))
    return tests


def large_alphabets(evaluation):
    """The alphabets with enough characters for a task."""
    groups = data.describe(evaluation).groups
    return [alphabet for alphabet, characters in groups.items() if characters >= WAYS]


def is_of(alphabet, class_name):
    """Whether a class belongs to this alphabet."""
    return data.group_of(class_name) == alphabet


def draw(report, evaluation, path):
    """Some characters, and the accuracy of each training: its mean, and a dot for each alphabet."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(13, 4.8))
        left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
        short = tuple(name.rpartition("images_evaluation/")[2] for name in evaluation.names)
        characters = dataclasses.replace(evaluation, names=short)
        mj.plots.contact_sheet(left, characters, classes=6, examples=8)
        measured = {row["training"]: (row["accuracy"], row["interval"]) for row in report["rows"]}
        title = f"{WAYS}-way 1-shot within an alphabet, trained on tasks"
        xlabel = "accuracy, % (grey line: chance)"
        mj.plots.dot_plot(right, {"": measured}, xlabel=xlabel, reference=100 / WAYS, title=title)
        for place, row in enumerate(report["rows"]):
            percent = [100 * value for value in row["alphabets"].values()]
            right.plot(percent, [place + 0.2] * len(percent), "|", color="0.5", markersize=9)
        number = len(report["rows"][0]["alphabets"])
        figure.supxlabel(
            f"95 % intervals over {number} alphabets, which are the grey marks; one training each",
            fontsize=8,
            color="0.4",
        )
        figure.savefig(path)


def main(options):
    training = TRAINING
    if options.tiny:
        options.steps, options.tasks, options.width = 10, 2, 8
        training = dict([*TRAINING.items()][-1:])
    source = data.omniglot()
    split = data.omniglot_split(source.names)
    background = data.select_part(source, split, "train")
    evaluation = data.select_part(source, split, "test")
    tests = test_tasks(evaluation, options.tasks)
    number = options.tasks * len(tests)
    draw_any = jax.jit(data.meta_batch(ANY, number))
    random = {"random": draw_any(evaluation, jax.random.key(3))}
    rows = []
    for name, sample in training.items():
        task_loss, params, seconds = learn(sample, background, options)
        within = accuracies(task_loss, params, tests)
        summary = mj.summarize(jnp.array([*within.values()]))
        row = {
            "training": name,
            "seconds": seconds,
            "accuracy": 100 * float(summary.mean),
            "interval": 100 * float(summary.interval),
            "alphabets": within,
            "random": 100 * accuracies(task_loss, params, random)["random"],
        }
        within = f"{row['accuracy']:.1f} ± {row['interval']:.1f} % within"
        print(f"{name}: {within}, {row['random']:.1f} % random", flush=True)
        rows.append(row)
    report = harness.header(
        seed=options.seed,
        split=split.name,
        digest=split.digest,
        steps=options.steps,
        tasks=options.tasks,
        rows=rows,
    )
    harness.save(options.out, "alphabets", report)
    draw(report, evaluation, options.out / "alphabets.png")


if __name__ == "__main__":
    main(parser.parse_args())
