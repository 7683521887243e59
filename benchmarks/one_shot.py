"""One-shot classification within an unseen alphabet: one drawer for the support, one for the rest.

A test task has 20 characters of one alphabet, or all of an alphabet that has fewer. One person drew
the support image of every character, and another the query. Nets are trained on the background
alphabets of Omniglot, and statistics of norms come from the support set. Every choice is made on
six background alphabets that `--arms` holds out. `--final` trains the chosen arm on all 30 and
tests it on the 20 evaluation alphabets, beside the first arm, which is the recipe of alphabets.py.
Intervals are over alphabets. Results are added to benchmarks/results/one_shot.json.

This is not the published one-shot task (Lake et al. 2015), which is another draw: 20 runs over ten
alphabets, chosen by hand.

METAJAX_DATA=folder python benchmarks/one_shot.py --arms
METAJAX_DATA=folder python benchmarks/one_shot.py --final
METAJAX_DATA=folder python benchmarks/one_shot.py --arms --tiny --out /tmp/results
"""

import argparse
import functools
import itertools
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

WAYS, SHOTS, QUERIES = 20, 1, 5  # of training tasks, those of alphabets.py
DRAWERS = 20
HELD_OUT = {"train": 24, "validation": 6}  # background alphabets
JITTER = data.affine(degrees=10, translate=0.05, scale=(0.9, 1.1), shear=10)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--arms", nargs="*", help="of the ablation; all where none is named")
parser.add_argument("--final", action="store_true", help="the test on the evaluation alphabets")
parser.add_argument("--steps", type=int, default=2000, help="of each net of the ablation")
parser.add_argument("--final-steps", type=int, default=5000, help="of each net of the chosen arm")
parser.add_argument("--tasks", type=int, default=20, help="of each alphabet")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Recipe(NamedTuple):
    """How a classifier is made.

    Attributes:
        widths: channels of the four blocks.
        places: places of the features along a side: 1, 3 or 7 after four, three or two poolings.
        shift: how many places apart the features of two images may be compared, see `similarity`.
        pairs: whether every image of a training task is compared with all others.
        transformed: whether a part of the training tasks has transformed characters, which are
            new.
        turned: whether a part of the training tasks is turned and mirrored as a whole, which makes
            new alphabets.
        strokes: whether the net also reads in which direction the strokes run, see `directions`.
        copies: transformed copies of every image in the test.
        nets: how many nets answer together.
    """

    widths: tuple = (64, 64, 64, 64)
    places: int = 1
    shift: int = 0
    pairs: bool = False
    transformed: bool = False
    turned: bool = False
    strokes: bool = False
    copies: int = 0
    nets: int = 1


PLAIN = Recipe()
WIDE = PLAIN._replace(widths=(64, 96, 128, 128))
PLACES = WIDE._replace(places=3)
SHIFTED = PLACES._replace(places=7, shift=1)
PAIRS = SHIFTED._replace(pairs=True)
NEW = PAIRS._replace(transformed=True)
TURNED = NEW._replace(turned=True)
STROKES = TURNED._replace(strokes=True)
COPIES = STROKES._replace(copies=8)
ARMS = {
    "recipe of alphabets.py": PLAIN,
    "+ wider": WIDE,
    "+ 3x3 places": PLACES,
    "+ 7x7 places that may shift": SHIFTED,
    "+ all pairs": PAIRS,
    "+ new characters by transformation": NEW,
    "+ turned and mirrored alphabets": TURNED,
    "+ directions of strokes": STROKES,
    "+ transformed copies in the test": COPIES,
    "+ three nets": COPIES._replace(nets=3),
}
"""{name: Recipe}, each with one thing more than the one before."""
CHOSEN = "+ three nets"


class Encoder(nnx.Module):
    """Blocks of convolution, norm, ReLU and max-pool; all places of the last one are features."""

    def __init__(self, recipe, rngs):
        inputs = (3 if recipe.strokes else 1, *recipe.widths[:-1])
        sizes = list(zip(inputs, recipe.widths, strict=True))
        self.convolutions = nnx.List([mj.nets.Conv(*pair, rngs=rngs) for pair in sizes])
        self.norms = nnx.List([mj.nets.TaskNorm(width, rngs=rngs) for width in recipe.widths])
        poolings = {1: 4, 3: 3, 7: 2}[recipe.places]
        self.pools = [block < poolings for block in range(len(sizes))]
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


def similarity(recipe, query, support):
    """Minus the squared distance of features, in the mean over places.

    A place of the query is compared with all places of the support image that are at most `shift`
    away, and the nearest features count.

    Args:
        recipe: with `places` and `shift`.
        query: [q, places * places * d].
        support: [s, places * places * d].

    Returns:
        [q, s].
    """
    places, shift = recipe.places, recipe.shift
    query = query.reshape(len(query), places, places, -1)
    support = support.reshape(len(support), places, places, -1)
    around = jnp.pad(support, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    squares = (query**2).sum(axis=3).transpose(1, 2, 0)[:, :, :, None]
    nearest = -jnp.inf
    for down, right in itertools.product(range(2 * shift + 1), repeat=2):
        moved = around[:, down : down + places, right : right + places]
        product = jnp.einsum("qhwd,shwd->hwqs", query, moved)
        moved_squares = (moved**2).sum(axis=3).transpose(1, 2, 0)[:, :, None]
        nearest = jnp.maximum(nearest, 2 * product - squares - moved_squares)
    return nearest.mean(axis=(0, 1))


def make_learner(recipe, ways, seed=0):
    """The learner whose logits are the mean similarity with the support images of a class."""
    embed, params = algorithms.as_features(
        mj.nets.functional(Encoder(recipe, nnx.Rngs(seed))), "head"
    )

    def apply(params, x, key=None, *, reference=None):
        head = params.fast["head"]
        near = similarity(recipe, embed(params, x, key, reference=reference), head["features"])
        return near @ head["classes"] / head["classes"].sum(axis=0)

    adaptation = mj.inner.support_set(embed, ways)
    task_loss = mj.query_loss(adaptation, mj.losses.cross_entropy(apply), inductive=True)
    if recipe.pairs:
        task_loss = all_pairs(recipe, embed)
    return mj.Learner(apply, params, adaptation, task_loss)


def all_pairs(recipe, embed):
    """The task loss that compares every image with all others, with those of its class as targets.

    -log of the share of the softmax over similarities that the images of the same class have
    (neighbourhood components; Goldberger et al. 2004).
    """

    def task_loss(params, task, key):
        x = jnp.concatenate([task.support.x, task.query.x])
        y = jnp.concatenate([task.support.y, task.query.y])
        reference = jnp.arange(len(y)) < len(task.support.y)
        features = embed(params, x, key, reference=reference)
        others = ~jnp.eye(len(y), dtype=bool)
        near = jnp.where(others, similarity(recipe, features, features), -1e9)
        log_share = jax.nn.log_softmax(near)
        same = others & (y[:, None] == y)
        value = -jax.nn.logsumexp(jnp.where(same, log_share, -1e9), axis=1).mean()
        return value, {"accuracy": (y[near.argmax(axis=1)] == y).mean()}

    return task_loss


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
    """Tasks of one alphabet; every drawing is transformed by itself."""
    of_one = data.grouped_episodes(WAYS, SHOTS, QUERIES)
    episodes = {"one alphabet": of_one}
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
    """(params, seconds) of one net."""
    started = time.perf_counter()
    learner = make_learner(recipe, WAYS, seed)
    schedule = optax.cosine_decay_schedule(2e-3, steps)
    outer = mj.outer_loop(learner.task_loss, optax.adam(schedule))
    fuse = min(10, steps)
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        data.meta_batch(training_tasks(recipe), tasks=1),
        source,
        jax.random.key(seed),
        steps=steps,
        fuse=fuse,
        every=steps // fuse * fuse,
    )
    return state.params, time.perf_counter() - started


def tested(recipe, members, ways):
    """The learner that answers with all nets and all copies."""
    learner = make_learner(recipe._replace(pairs=False), ways)
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


def measured(name, tests, steps, trained):
    """The row of an arm: its errors on each alphabet, their mean and its interval."""
    recipe = ARMS[name]
    nets = [trained(recipe._replace(copies=0, nets=1), steps, seed) for seed in range(recipe.nets)]
    seconds = sum(taken for _, taken in nets)
    of_alphabets = errors(recipe, [params for params, _ in nets], tests)
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


def trained_once(source):
    """(recipe, steps, seed) -> what `train` returns, which arms that test one net share."""
    return functools.cache(lambda recipe, steps, seed: train(recipe, source, steps, seed))


def main(options):
    held_out = HELD_OUT
    plain_steps = 4000  # of alphabets.py
    if options.tiny:
        options.steps, options.final_steps, options.tasks, plain_steps = 2, 2, 2, 2
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
        trained = trained_once(parts[0])
        for name in options.arms or ARMS:
            report["arms"][name] = measured(name, tests, options.steps, trained)
            harness.save(options.out, "one_shot", report)
    if options.final:
        tests = tests_of(data.select_part(source, split, "test"), options.tasks)
        trained = trained_once(background)
        for name, steps in ((next(iter(ARMS)), plain_steps), (CHOSEN, options.final_steps)):
            report["final"][name] = measured(name, tests, steps, trained)
            harness.save(options.out, "one_shot", report)


if __name__ == "__main__":
    main(parser.parse_args())
