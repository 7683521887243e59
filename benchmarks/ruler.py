"""The value of each modality on real data, with trained encoders, and the gain of learned weights.

Reads data files from the folder that METAJAX_DATA names. For each data set and each split of its
classes, an encoder for each modality is trained on the training classes, each by itself and all
together, as prototypical networks are. Then `metajax.modalities.ruler` chooses static weights and
learns weights on the validation classes, and measures on the test classes. Where classes are few,
intervals are over splits of the classes, one net each, else over tasks. Writes
benchmarks/results/ruler.json and .png.

METAJAX_DATA=folder python benchmarks/ruler.py --data strokes digits hanzi groceries
"""

import argparse
import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.modalities import late_head, modal_prototypes, restrict

WAYS, SHOTS, QUERIES, WIDTH = 5, (1, 5), 7, 32

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["strokes", "digits", "hanzi", "groceries"])
parser.add_argument("--splits", type=int, help="by default those of the published result file")
parser.add_argument("--steps", type=int, help="of training the encoders, by default likewise")
parser.add_argument("--tasks", type=int, default=100, help="validation and test tasks of a split")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Setting(NamedTuple):
    """One data set, split by a seed.

    Attributes:
        parts: (train, validation, test) data sets; train may be whatever `sample` draws from.
        encoders: {modality: module}.
        sample: (train, key) -> training tasks.
        split: the classes of the parts.
    """

    parts: tuple
    encoders: dict
    sample: Callable
    split: mj.data.Split


def image(seed):
    return mj.nets.Conv4(WIDTH, width=32, rngs=nnx.Rngs(seed))


def stroke(seed):
    return mj.nets.TemporalConv(4, WIDTH, width=48, rngs=nnx.Rngs(seed + 1))


def audio(seed):
    reader = mj.nets.TemporalConv(40, WIDTH, width=48, rngs=nnx.Rngs(seed + 2))
    return mj.nets.Audio(reader, rate=8000)


def text(seed):
    rngs = nnx.Rngs(seed + 3)
    reader = mj.nets.TemporalConv(32, WIDTH, width=48, blocks=2, stride=1, rngs=rngs)
    return mj.nets.Text(2000, reader, rngs=nnx.Rngs(seed))


def training_tasks(ways):
    """1-shot tasks with 5 queries a class, one at a time."""
    return mj.data.meta_batch(mj.data.episodes(ways, 1, 5), tasks=1)


def all_parts(source, split):
    return tuple(mj.data.select_part(source, split, part) for part in split.parts)


def strokes(seed):
    """Omniglot image + stroke: Balinese to validate, Sanskrit and Tagalog to test, 5 to train."""
    source = mj.data.omniglot_strokes()
    held_out = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}

    def is_of(alphabets):
        return lambda name: any(f"{alphabet}/" in name for alphabet in alphabets)

    others = is_of(held_out["validation"] + held_out["test"])
    predicates = {"train": lambda name: not others(name)}
    predicates |= {part: is_of(alphabets) for part, alphabets in held_out.items()}
    split = mj.data.class_split("alphabets", predicates, source.names)
    encoders = {"image": image(seed), "stroke": stroke(seed)}
    return Setting(all_parts(source, split), encoders, training_tasks(20), split)


def digits(seed):
    """Written + spoken digits: 5 to train and, on other examples, to validate; 5 to test.

    Five classes are too few to train an image encoder, so four of five tasks are of Omniglot, where
    there are no recordings.
    """
    source = mj.data.paired_digits(seed=seed)
    chosen = np.random.default_rng(seed).permutation(10) < 5
    train = mj.data.select(source, chosen)
    test = mj.data.select(source, ~chosen)
    to_train = np.arange(len(train.y)) % 200 < 150
    parts = (
        (keep_rows(train, to_train), mj.data.omniglot()),
        keep_rows(train, ~to_train),
        test,
    )
    split = mj.data.class_split("digits", {"train": train, "test": test})
    encoders = {"image": image(seed), "audio": audio(seed)}
    return Setting(parts, encoders, digits_and_characters, split)


def keep_rows(source, mask):
    """The rows in the mask as a data set."""
    x = jax.tree.map(lambda leaf: np.asarray(leaf)[mask], source.x)
    return mj.data.dataset(x, source.y[mask], scale=source.scale)


def digits_and_characters(sources, key):
    """((digits, characters), key) -> a task of digits and four of characters without recordings."""
    digits, characters = sources
    draw = mj.data.episodes(5, 1, 5)
    first, *others = jax.random.split(key, 5)
    tasks = [draw(digits, first)]
    for one in others:
        task = draw(characters, one)
        tasks.append(mj.Task(without_sound(task.support), without_sound(task.query)))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


def without_sound(batch):
    """A batch of pictures as modalities."""
    number = len(batch.y)
    value = {"image": batch.x, "audio": jnp.zeros((number, 6000))}
    return batch._replace(
        x=mj.data.as_modalities(value, {"audio": jnp.zeros(number, bool)}),
    )


def hanzi(seed):
    """Chinese characters: 47 radicals to train, 20 to validate, 27 to test, drawn at random."""
    source = mj.data.hanzi()
    sizes = {"train": 47, "validation": 20, "test": 27}
    split = mj.data.draw_split(source.names, sizes, seed=seed)
    encoders = {"image": image(seed), "stroke": stroke(seed), "definition": text(seed)}
    return Setting(all_parts(source, split), encoders, training_tasks(20), split)


def groceries(seed):
    """Groceries, grey + colour: the latter in 4 x 4 places. 23, 9 and 11 whole coarse classes."""
    source = grey_and_colour(mj.data.groceries(size=32))
    coarse_of = lambda name: name.split("/")[0]
    coarse = np.unique([coarse_of(name) for name in source.names])
    order = np.random.default_rng(seed).permutation(coarse)
    members = {"train": order[:23], "validation": order[23:32], "test": order[32:43]}
    predicates = {}
    for part, mine in members.items():
        predicates[part] = lambda name, mine=mine: coarse_of(name) in mine
    split = mj.data.class_split("coarse classes", predicates, source.names)
    colour = mj.nets.MLP(48, (64,), WIDTH, rngs=nnx.Rngs(seed))
    encoders = {"grey": image(seed), "colour": colour}
    return Setting(all_parts(source, split), encoders, training_tasks(10), split)


def grey_and_colour(source):
    """Photographs as two modalities: brightness, and what is left of the colours."""
    photo = np.asarray(source.x, np.float32)
    grey = photo.mean(axis=-1, keepdims=True)
    colour = (photo - grey).reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4))
    value = {
        "grey": grey.astype(np.uint8),
        "colour": colour.reshape(len(colour), -1) / 64,
    }
    x = mj.data.as_modalities(value)
    return mj.data.dataset(x, source.y, names=source.names, scale={"grey": 255})


class Plan(NamedTuple):
    """How one data set is measured.

    Attributes:
        make: seed -> Setting.
        steps: of training the encoders.
        splits: number of seeds.
        over_splits: whether intervals are over splits of the classes, and not over tasks.
    """

    make: Callable
    steps: int
    splits: int
    over_splits: bool


DATA = {
    "strokes": Plan(strokes, 800, 3, False),
    "digits": Plan(digits, 500, 10, True),
    "hanzi": Plan(hanzi, 600, 10, True),
    "groceries": Plan(groceries, 400, 10, True),
}


def make_task_loss(encode, names):
    """The loss of nearest class means by all modalities, and by each of them alone.

    Features are computed once, for all of the 1 + M losses.
    """
    known = mj.nets.identity_encoder
    loss = mj.losses.cross_entropy(late_head(known))

    def encoded(params, batch):
        features = encode(params, batch.x)
        return batch._replace(x=mj.Modalities(features, batch.x.present))

    def task_loss(params, task, key):
        support = encoded(params, task.support)
        query = encoded(params, task.query)
        write = modal_prototypes(known, len(task.support.y))
        adapted = write.adapt(params._replace(fast={}), support, key)
        total, metrics = loss(adapted, query, key)
        for name in names:
            here = query.x.present[name] * 1.0
            alone = query._replace(x=restrict(query.x, [name]), weight=here)
            value, _ = loss(adapted, alone, key)
            total += value
        return total, metrics

    return task_loss


def train(setting, steps, seed):
    """(encode, params): encoders that are trained on tasks of the training classes."""
    fusion = mj.nets.fusion.mean
    net = mj.nets.Multimodal(setting.encoders, fusion, WIDTH, 1, rngs=nnx.Rngs(seed))
    apply, params = mj.nets.functional(net)
    encode = functools.partial(apply, method="encode")
    task_loss = make_task_loss(encode, sorted(setting.encoders))
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    state, _ = mj.training.fit(
        outer,
        outer.init(params),
        setting.sample,
        setting.parts[0],
        jax.random.key(seed),
        steps=steps,
        fuse=20,
        every=steps,
        progress=False,
    )
    return encode, state.params


def measure(setting, encode, params, tasks, seed):
    """{shots: the ruler}."""
    key = jax.random.key(seed)
    validation_key, test_key, ruler_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    draw = jax.jit(mj.data.meta_batch(mj.data.episodes(WAYS, 8, QUERIES), tasks))
    _, validation, test = setting.parts
    validation_tasks = draw(validation, validation_key)
    test_tasks = draw(test, test_key)
    return mj.modalities.ruler(
        encode, params, validation_tasks, test_tasks, ruler_key, ways=WAYS, shots=SHOTS
    )


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    mean, half = mj.summarize(jnp.asarray(values))[:2]
    return [100 * float(mean), 100 * float(half)]


def report(name, runs, shots):
    """The row of one data set at one number of shots."""
    rulers = [run[shots] for run in runs]
    accuracy = accuracies(rulers, DATA[name].over_splits)
    mean = {row: float(np.mean(values)) for row, values in accuracy.items()}
    modalities = list(rulers[0].learned)
    hindsight = max(modalities, key=mean.get)  # best on the test itself

    def difference(row, other):
        return summary(np.subtract(accuracy[row], accuracy[other]))

    curve = {}
    for number in rulers[0].curve:
        curve[number] = float(np.mean([one.curve[number].mean for one in rulers]))
    equivalent = float(mj.modalities.first_crossing(curve, mean["learned"]))
    static = {}
    learned = {}
    for one in modalities:
        static[one] = float(np.mean([ruler.static[one] for ruler in rulers]))
        learned[one] = float(np.mean([float(ruler.learned[one].mean()) for ruler in rulers]))
    single = mean["best single"]
    return {
        "data": name,
        "shots": shots,
        "accuracy": {row: summary(values) for row, values in accuracy.items()},
        "learned minus best single": difference("learned", "best single"),
        "learned minus static": difference("learned", "static"),
        "learned minus hindsight": difference("learned", hindsight),
        "gap closed": (mean["learned"] - single) / (mean["oracle"] - single),
        "shots equivalent": equivalent if np.isfinite(equivalent) else None,
        "most shots": max(curve),
        "static weights": static,
        "learned weights": learned,
    }


def accuracies(rulers, over_splits):
    """{row: accuracies} of each split, or of the tasks of all splits.

    The best single modality is that of the validation tasks of each split.
    """
    rows = {row: [one.accuracy[row] for one in rulers] for row in rulers[0].accuracy}
    rows["best single"] = [one.accuracy[one.best_single] for one in rulers]
    found = {}
    for row, summaries in rows.items():
        per_task = [np.asarray(one.per_task) for one in summaries]
        if over_splits:
            found[row] = [float(values.mean()) for values in per_task]
        else:
            found[row] = np.concatenate(per_task)
    return found


def draw(axis, name, rows):
    """Every row of the ruler, at each number of shots."""
    points = {}
    for row in rows:
        label = f"{row['shots']} shot{'s' * (row['shots'] > 1)}"
        shown = {key: value for key, value in row["accuracy"].items() if key != "best single"}
        points[label] = {
            key: (mean / 100, interval / 100) for key, (mean, interval) in shown.items()
        }
    title = DATA[name].make.__doc__.split(":")[0].split(".")[0]
    mj.plots.accuracies(axis, points, title=f"{title}, {WAYS}-way")


def main(options):
    from matplotlib.figure import Figure

    # The programs of all splits are the same, so that only the first one waits for the compiler.
    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    started = time.perf_counter()
    number = len(options.data)
    figure = Figure(figsize=(4.2 * number, 3.6), layout="constrained")
    axes = figure.subplots(1, number, squeeze=False)[0]
    rows = []
    splits = {}
    digests = {}
    for axis, name in zip(axes, options.data, strict=True):
        plan = DATA[name]
        splits[name] = options.splits or plan.splits
        digests[name] = []
        runs = []
        for seed in range(splits[name]):
            setting = plan.make(seed)
            digests[name].append(setting.split.digest)
            encode, params = train(setting, options.steps or plan.steps, seed)
            runs.append(measure(setting, encode, params, options.tasks, seed))
            seconds = time.perf_counter() - started
            print(f"{name}, split {seed}, {seconds:.0f} s so far", flush=True)
        mine = [report(name, runs, shots) for shots in SHOTS]
        for row in mine:
            print(json.dumps(row, indent=1))
        draw(axis, name, mine)
        rows += mine
        result = harness.brief_header() | {
            "seconds": time.perf_counter() - started,
            "splits": splits,
            "digests": digests,
            "tasks": options.tasks,
            "rows": rows,
        }
        harness.save(options.out, "ruler", result)
        figure.savefig(options.out / "ruler.png", dpi=100)


if __name__ == "__main__":
    main(parser.parse_args())
