"""One-shot classification within an unseen alphabet: one drawer for the support, one for the rest.

A task has 20 characters of one alphabet, or all of an alphabet that has fewer. One person drew the
support image of every character, and another the query. Nets are trained on the 30 background
alphabets of Omniglot, in prototypical networks, and statistics of norms come from the support set.
Every choice is made on six background alphabets that `--arms` holds out; `--final` trains the last
arm on all 30 and tests it on the 20 evaluation alphabets, beside the first arm: the net of
alphabets.py, here trained on other sizes and with the statistics of the support set. Intervals are
over alphabets. Results are added to benchmarks/results/one_shot.json.

This is not the published one-shot task (Lake et al. 2015), which is another draw: 20 runs over ten
alphabets, chosen by hand.

METAJAX_DATA=folder python benchmarks/one_shot.py --arms
METAJAX_DATA=folder python benchmarks/one_shot.py --final
METAJAX_DATA=folder python benchmarks/one_shot.py --arms --tiny --out /tmp/results
"""

import argparse
import functools
import json
import pathlib
import time
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms, data

WAYS, DRAWERS = 20, 20
HELD_OUT = {"train": 24, "validation": 6}  # background alphabets
JITTER = data.affine(degrees=10, translate=0.05, scale=(0.9, 1.1), shear=10)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--arms", nargs="*", help="of the ablation; all where none is named")
parser.add_argument("--final", action="store_true", help="the test on the evaluation alphabets")
parser.add_argument("--steps", type=int, default=4000, help="of each net of the ablation")
parser.add_argument("--final-steps", type=int, default=10_000, help="of each net of the test")
parser.add_argument("--tasks", type=int, default=20, help="of each alphabet")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Recipe(NamedTuple):
    """How a classifier is made.

    Attributes:
        within: whether half of the training tasks are of one alphabet.
        widths: channels of the four blocks.
        places: places of the features along a side: 1 after four poolings, 3 after three.
        strokes: whether the net also reads in which direction the strokes run, see `directions`.
        transformed: whether a part of the training tasks has transformed characters, which are
            new.
        turned: whether a part of the training tasks is turned and mirrored as a whole, which makes
            new alphabets.
        copies: transformed copies of every image in the test.
        nets: how many nets answer together.
    """

    within: bool = False
    widths: tuple = (64, 64, 64, 64)
    places: int = 1
    strokes: bool = False
    transformed: bool = False
    turned: bool = False
    copies: int = 0
    nets: int = 1


PLAIN = Recipe()
WITHIN = PLAIN._replace(within=True)
WIDE = WITHIN._replace(widths=(64, 96, 128, 128))
PLACES = WIDE._replace(places=3)
NEW = PLACES._replace(transformed=True)
TURNED = NEW._replace(turned=True)
STROKES = TURNED._replace(strokes=True)
COPIES = STROKES._replace(copies=8)
ARMS = {
    "net of alphabets.py": PLAIN,
    "+ tasks of one alphabet": WITHIN,
    "+ wider": WIDE,
    "+ 3x3 places": PLACES,
    "+ new characters by transformation": NEW,
    "+ turned and mirrored alphabets": TURNED,
    "+ directions of strokes": STROKES,
    "+ transformed copies in the test": COPIES,
    "+ three nets": COPIES._replace(nets=3),
}
"""{name: Recipe}, each with one thing more than the one before."""


class Encoder(nnx.Module):
    """Blocks of convolution, norm, ReLU and max-pool; all places of the last one are features."""

    def __init__(self, recipe, rngs):
        inputs = (3 if recipe.strokes else 1, *recipe.widths[:-1])
        sizes = list(zip(inputs, recipe.widths, strict=True))
        self.convolutions = nnx.List([mj.nets.Conv(*pair, rngs=rngs) for pair in sizes])
        self.norms = nnx.List([mj.nets.TaskNorm(width, rngs=rngs) for width in recipe.widths])
        self.pools = [True, True, True, recipe.places == 1]
        self.strokes = recipe.strokes

    def __call__(self, x, reference=None):
        """[n, 28, 28, 1] -> [n, places * places * widths[-1]]."""
        if self.strokes:
            x = jnp.concatenate([x, jax.vmap(directions)(x)], axis=3)
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            x = nnx.relu(norm(convolution(x), reference, pool=mj.nets.max_pool if pool else None))
        return x.reshape(len(x), -1)


def directions(image):
    """Where strokes run: (cos 2φ, sin 2φ) times the ink, with the direction φ of the edges.

    It is the structure tensor of the image over 3x3 pixels: [28, 28, 1] -> [28, 28, 2].
    """
    down, right = jnp.gradient(image[:, :, 0])
    products = jnp.stack([right**2 - down**2, 2 * right * down, right**2 + down**2], axis=-1)
    ones = (1, 1, 1)
    near = jax.lax.reduce_window(products, 0.0, jax.lax.add, (3, 3, 1), ones, "SAME")
    return image * near[:, :, :2] / (near[:, :, 2:] + 1e-4)


def one_drawer_each(ways):
    """Sampler of tasks within one alphabet: (dataset of the alphabet, key) -> Task."""

    def sample(dataset, key):
        class_key, drawer_key = jax.random.split(key)
        classes = jax.random.permutation(class_key, dataset.classes)[:ways]
        drawers = jax.random.permutation(drawer_key, DRAWERS)[:2]
        y = jnp.arange(ways)
        drawn = lambda drawer: mj.Batch(data.take_examples(dataset, classes * DRAWERS + drawer), y)
        return mj.Task(drawn(drawers[0]), drawn(drawers[1]))

    return sample


def tests_of(source, tasks):
    """{alphabet: tasks}."""
    found = {}
    for alphabet, characters in data.describe(source).groups.items():
        one = data.select(source, lambda name, alphabet=alphabet: data.group_of(name) == alphabet)
        draw = data.meta_batch(one_drawer_each(min(WAYS, characters)), tasks)
        found[alphabet] = jax.jit(draw)(one, jax.random.key(2))
    return found


def turn(image, key):
    """The image after some quarter turns, mirrored or not."""
    turn_key, mirror_key = jax.random.split(key)
    views = jnp.stack([jnp.rot90(image, quarters) for quarters in range(4)])
    turned = views[jax.random.randint(turn_key, (), 0, 4)]
    return jnp.where(jax.random.bernoulli(mirror_key), turned[:, ::-1], turned)


def training_tasks(recipe):
    """Tasks of one alphabet or of all; every drawing is transformed by itself."""
    of_one = data.grouped_episodes(WAYS, 1, 2)
    episodes = {"all alphabets": data.episodes(WAYS, 1, 2)}
    if recipe.within:
        episodes["one alphabet"] = of_one
    if recipe.transformed:
        strong = data.affine(degrees=20, scale=(0.7, 1.3), shear=30)
        new = data.augmented(of_one, strong, group=lambda batch: batch.y)
        episodes["new characters"] = new
    if recipe.turned:
        episodes["new alphabets"] = data.augmented(of_one, turn, group=lambda batch: 0)
    mixed = data.task_modes(episodes)

    def without_mode(dataset, key):
        return mixed(dataset, key)._replace(context=())

    return data.augmented(without_mode, JITTER)


def train(recipe, source, steps, seed):
    """The params of one net."""
    learner = algorithms.protonets(Encoder(recipe, nnx.Rngs(seed)), WAYS, inductive=True)
    schedule = optax.cosine_decay_schedule(2e-3, steps)
    outer = mj.outer_loop(learner.task_loss, optax.adam(schedule), tasks_at_once=1)
    fuse = min(10, steps)
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        data.meta_batch(training_tasks(recipe), tasks=2),
        source,
        jax.random.key(seed),
        steps=steps,
        fuse=fuse,
        every=steps // fuse * fuse,
    )
    return state.params


def tested(recipe, members, ways):
    """The learner that answers with all nets and all copies."""
    learner = algorithms.protonets(Encoder(recipe, nnx.Rngs(0)), ways, inductive=True)
    if recipe.copies:
        learner = algorithms.augmented_queries(learner, JITTER, recipe.copies, inductive=True)
    return algorithms.ensemble(learner, members, inductive=True)


def with_copies(recipe, tasks):
    """The tasks with transformed copies of every support image."""
    if not recipe.copies:
        return tasks

    def copied(task, key):
        keys = jax.random.split(key, (recipe.copies, len(task.support.y)))
        changed = jax.vmap(jax.vmap(JITTER, (0, 0)), (None, 0))(task.support.x, keys)
        x = jnp.concatenate([task.support.x, *changed])
        y = jnp.tile(task.support.y, 1 + recipe.copies)
        return task._replace(support=mj.Batch(x, y))

    number = len(tasks.support.y)
    return jax.jit(jax.vmap(copied))(tasks, jax.random.split(jax.random.key(3), number))


def errors(recipe, members, tests):
    """{alphabet: per cent of errors}."""
    found = {}
    for alphabet, tasks in tests.items():
        learner = tested(recipe, members, tasks.support.y.shape[1])
        score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
        summary = jax.jit(score)(learner.params, with_copies(recipe, tasks), jax.random.key(1))
        found[alphabet] = 100 * (1 - float(summary["accuracy"].mean))
    return found


def measured(name, source, tests, steps):
    """The row of an arm: its errors on each alphabet, their mean and its interval."""
    recipe = ARMS[name]
    started = time.perf_counter()
    members = [train(recipe, source, steps, seed) for seed in range(recipe.nets)]
    seconds = time.perf_counter() - started
    of_alphabets = errors(recipe, members, tests)
    summary = mj.summarize(jnp.array([*of_alphabets.values()]))
    row = {
        "arm": name,
        "errors": [float(summary.mean), float(summary.interval)],
        "alphabets": of_alphabets,
        "steps": steps,
        "seconds": seconds,
        **harness.brief_header(),
    }
    print(name, row["errors"], f"{seconds:.0f} s", flush=True)
    return row


def main(options):
    held_out = HELD_OUT
    if options.tiny:
        options.steps, options.final_steps, options.tasks = 2, 2, 2
        held_out = {"train": 2, "validation": 1}
    source = data.omniglot()
    split = data.omniglot_split(source.names)
    background = data.select_part(source, split, "train")
    choosing = data.draw_split(background.names, held_out, seed=0, group=data.group_of)
    path = options.out / "one_shot.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report = harness.header(
        seed=0,
        digests={"test": split.digest, "choices": choosing.digest},
        tasks=options.tasks,
        arms=report.get("arms", {}),
        final=report.get("final", {}),
    )
    if options.arms is not None:
        parts = [data.select_part(background, choosing, part) for part in held_out]
        tests = tests_of(parts[1], options.tasks)
        for name in options.arms or ARMS:
            report["arms"][name] = measured(name, parts[0], tests, options.steps)
            harness.save(options.out, "one_shot", report)
    if options.final:
        tests = tests_of(data.select_part(source, split, "test"), options.tasks)
        for name in (next(iter(ARMS)), list(ARMS)[-1]):
            report["final"][name] = measured(name, background, tests, options.final_steps)
            harness.save(options.out, "one_shot", report)


if __name__ == "__main__":
    main(parser.parse_args())
