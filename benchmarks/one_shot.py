"""One-shot classification within an unseen alphabet: one drawer for the support, one for the rest.

A test task has 20 characters of one alphabet, or all of an alphabet that has fewer. One person drew
the support image of every character, and another the query. Nets are trained on the background
alphabets of Omniglot, and statistics of norms come from the support set. The first arm is the best
recipe of alphabets.py, but for these statistics; that script chose tasks of one alphabet, and to
transform each drawing, on the evaluation alphabets. Every other choice is made on six background
alphabets that `--arms` holds out. `--final` trains the first and the chosen arm on all 30 and tests
both on the 20 evaluation alphabets. Intervals are over alphabets. Results are added to
benchmarks/results/one_shot.json.

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
STRONG = data.affine(degrees=15, translate=0.08, scale=(0.8, 1.2), shear=20)
COMPARED = 32  # numbers in each place, where places are compared with their neighbours

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--arms", nargs="*", help="of the ablation; all where none is named")
parser.add_argument("--final", action="store_true", help="the test on the evaluation alphabets")
parser.add_argument("--steps", type=int, default=1500, help="of each net of the ablation")
parser.add_argument("--final-steps", type=int, default=8000, help="of each net of the chosen arm")
parser.add_argument("--tasks", type=int, default=20, help="of each alphabet")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Recipe(NamedTuple):
    """How a classifier is made.

    Attributes:
        transform: what changes each drawing in training: "nothing", "jitter" or "strong".
        widths: channels of the four blocks.
        places: places of the features along a side: 1, 3 or 7 after four, three or two poolings.
        shift: how many places apart the features of two images may be compared, see `similarity`.
        pairs: whether every image of a training task is compared with all others.
        turned: whether half of the training tasks are turned and mirrored as a whole, which makes
            new alphabets.
        strokes: whether the net also reads in which direction the strokes run, see `directions`.
        copies: transformed copies of every support image in the test.
        nets: how many nets answer together.
    """

    transform: str = "jitter"
    widths: tuple = (64, 64, 64, 64)
    places: int = 1
    shift: int = 0
    pairs: bool = False
    turned: bool = False
    strokes: bool = False
    copies: int = 0
    nets: int = 1


PLAIN = Recipe()
WIDE = PLAIN._replace(widths=(64, 96, 128, 128))
PLACES = WIDE._replace(places=3)
SHIFTED = PLACES._replace(places=7, shift=1)
PAIRS = SHIFTED._replace(pairs=True)
STRONGER = PAIRS._replace(transform="strong")
TURNED = STRONGER._replace(turned=True)
STROKES = TURNED._replace(strokes=True)
COPIES = STROKES._replace(copies=8)
ARMS = {
    "net of alphabets.py": PLAIN,
    "drawings as they are": PLAIN._replace(transform="nothing"),
    "+ wider": WIDE,
    "+ 3x3 places": PLACES,
    "+ 7x7 places that may shift": SHIFTED,
    "+ all pairs": PAIRS,
    "+ stronger transformations": STRONGER,
    "+ turned and mirrored alphabets": TURNED,
    "+ directions of strokes": STROKES,
    "+ transformed copies in the test": COPIES,
    "+ three nets": COPIES._replace(nets=3),
}
"""{name: Recipe}. An arm whose name begins with + has one thing more than the one before, but for
the second arm, which has one thing less than the first."""
CHOSEN = "+ transformed copies in the test"


class Encoder(nnx.Module):
    """Blocks of convolution, norm, ReLU and max-pool; all places of the last one are features."""

    def __init__(self, recipe, rngs):
        inputs = (3 if recipe.strokes else 1, *recipe.widths[:-1])
        sizes = list(zip(inputs, recipe.widths, strict=True))
        self.convolutions = nnx.List([mj.nets.Conv(*pair, rngs=rngs) for pair in sizes])
        self.norms = nnx.List([mj.nets.TaskNorm(width, rngs=rngs) for width in recipe.widths])
        poolings = {1: 4, 3: 3, 7: 2}[recipe.places]
        self.pools = [block < poolings for block in range(len(sizes))]
        self.last = nnx.Linear(recipe.widths[-1], COMPARED, rngs=rngs) if recipe.shift else None
        self.strokes = recipe.strokes

    def __call__(self, x, reference=None):
        """[n, 28, 28, 1] -> [n, places * places * channels]."""
        if self.strokes:
            x = jnp.concatenate([x, jax.vmap(directions)(x)], axis=3)
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            x = nnx.relu(norm(convolution(x), reference, pool=mj.nets.max_pool if pool else None))
        if self.last is not None:
            x = self.last(x)
        return x.reshape(len(x), -1)


def directions(image):
    """Where strokes run: (cos 2φ, sin 2φ) times the ink, with φ the direction across the stroke.

    It is the structure tensor of the image over 3x3 pixels: [28, 28, 1] -> [28, 28, 2].
    """
    down, right = jnp.gradient(image[:, :, 0])
    products = jnp.stack([right**2 - down**2, 2 * right * down, right**2 + down**2], axis=-1)
    ones = (1, 1, 1)
    near = jax.lax.reduce_window(products, 0.0, jax.lax.add, (3, 3, 1), ones, "SAME")
    return image * near[:, :, :2] / (near[:, :, 2:] + 1e-4)


def similarity(recipe, first, second):
    """Minus the squared distance of the features of two images, in the mean over places.

    Where places may shift, a place is compared with all places of the other image that are at most
    `shift` away, and the nearest features count; it is the sum of both ways to compare.

    Args:
        recipe: with `places` and `shift`.
        first: [q, places * places * d].
        second: [s, places * places * d].

    Returns:
        [q, s].
    """
    places = recipe.places
    first, second = (part.reshape(len(part), places, places, -1) for part in (first, second))
    there = nearest(first, second, recipe.shift)
    return there + nearest(second, first, recipe.shift).T if recipe.shift else there


def nearest(here, there, shift):
    """For each place of one image the nearest of the other, in the mean over places: [q, s]."""
    rows, columns = here.shape[1:3]
    around = jnp.pad(there, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    squares = (here**2).sum(axis=3).transpose(1, 2, 0)[:, :, :, None]
    found = -jnp.inf
    for down, right in itertools.product(range(2 * shift + 1), repeat=2):
        moved = around[:, down : down + rows, right : right + columns]
        product = jnp.einsum("qhwd,shwd->hwqs", here, moved)
        moved_squares = (moved**2).sum(axis=3).transpose(1, 2, 0)[:, :, None]
        found = jnp.maximum(found, 2 * product - squares - moved_squares)
    return found.mean(axis=(0, 1))


def make_learner(recipe, ways, seed=0):
    """The learner whose logits are log Σ exp of the similarity with the images of a class."""
    net = mj.nets.functional(Encoder(recipe, nnx.Rngs(seed)))
    embed, params = algorithms.as_features(net, "head")

    def apply(params, x, key=None, *, reference=None):
        head = params.fast["head"]
        near = similarity(recipe, embed(params, x, key, reference=reference), head["features"])
        of_class = jnp.where(head["classes"].T[None] > 0, near[:, None], -1e9)
        return jax.nn.logsumexp(of_class, axis=2)

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
    for number, (alphabet, characters) in enumerate(data.describe(source).groups.items()):
        one = data.select(source, lambda name, alphabet=alphabet: data.group_of(name) == alphabet)
        draw = data.meta_batch(one_drawer_each(min(WAYS, characters)), tasks)
        key = jax.random.fold_in(jax.random.key(2), number)  # other drawers for each alphabet
        found[alphabet] = jax.jit(draw)(one, key)
    return found


def turn(image, key):
    """The image after some quarter turns, mirrored or not."""
    turn_key, mirror_key = jax.random.split(key)
    views = jnp.stack([jnp.rot90(image, quarters) for quarters in range(4)])
    turned = views[jax.random.randint(turn_key, (), 0, 4)]
    return jnp.where(jax.random.bernoulli(mirror_key), turned[:, ::-1], turned)


def training_tasks(recipe):
    """Tasks of one alphabet; every drawing is transformed by itself."""
    sample = data.grouped_episodes(WAYS, SHOTS, QUERIES)
    if recipe.turned:
        half = data.sometimes(turn, 0.5)
        sample = data.augmented(sample, half, group=lambda batch: 0)
    if recipe.transform == "nothing":
        return sample
    return data.augmented(sample, {"jitter": JITTER, "strong": STRONG}[recipe.transform])


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


def errors(recipe, members, tests):
    """{alphabet: per cent of errors} of the nets together."""
    found = {}
    for alphabet, tasks in tests.items():
        learner = make_learner(recipe._replace(pairs=False), tasks.support.y.shape[1])
        learner = algorithms.ensemble(learner, members, inductive=True)
        score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
        if recipe.copies:
            tasks = jax.jit(with_copies, static_argnums=1)(tasks, recipe.copies)
        summary = jax.jit(score)(learner.params, tasks, jax.random.key(1))
        found[alphabet] = 100 * (1 - float(summary["accuracy"].mean))
    return found


def with_copies(tasks, copies):
    """The tasks with so many transformed copies of every support image."""

    def copied(task, key):
        keys = jax.random.split(key, (copies, len(task.support.y)))
        changed = jax.vmap(jax.vmap(JITTER, (0, 0)), (None, 0))(task.support.x, keys)
        x = jnp.concatenate([task.support.x, *changed])
        y = jnp.tile(task.support.y, 1 + copies)
        return task._replace(support=mj.Batch(x, y))

    number = len(tasks.support.y)
    return jax.vmap(copied)(tasks, jax.random.split(jax.random.key(3), number))


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
        "recipe": recipe._asdict(),
    }
    print(name, row["errors"], f"{seconds:.0f} s", flush=True)
    return row


def trained_once(source):
    """(recipe, steps, seed) -> what `train` returns, which arms that test one net share."""
    return functools.cache(lambda recipe, steps, seed: train(recipe, source, steps, seed))


def main(options):
    header = harness.brief_header()  # before a result file makes the working tree differ
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
    report = json.loads(path.read_text()) if path.exists() else {"arms": {}, "final": {}}
    settings = {
        "digests": {"test": split.digest, "choices": choosing.digest},
        "tasks": options.tasks,
    }
    if report.setdefault("settings", settings) != settings:
        raise SystemExit(f"{path} has results of other settings; remove it or give another --out.")
    report |= harness.header(seed=0)  # of the last arm; each has its own
    if options.arms is not None:
        parts = [data.select_part(background, choosing, part) for part in held_out]
        tests = tests_of(parts[1], options.tasks)
        trained = trained_once(parts[0])
        for name in options.arms or ARMS:
            report["arms"][name] = measured(name, tests, options.steps, trained) | header
            harness.save(options.out, "one_shot", report)
    if options.final:
        evaluation = data.select_part(source, split, "test")
        if options.tiny:
            evaluation = data.select(evaluation, lambda name: "Tibetan" in name)
        tests = tests_of(evaluation, options.tasks)
        trained = trained_once(background)
        for name, steps in ((next(iter(ARMS)), plain_steps), (CHOSEN, options.final_steps)):
            report["final"][name] = measured(name, tests, steps, trained) | header
            harness.save(options.out, "one_shot", report)


if __name__ == "__main__":
    main(parser.parse_args())
