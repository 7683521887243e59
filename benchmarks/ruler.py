"""What each modality is worth on real data, with trained encoders, and what is gained by learning to weigh them.

Reads data packs from the folder that METAJAX_DATA names. For each data set and each split of its classes, an encoder
for each modality is trained on the training classes, each by itself and all together, as prototypical networks are;
then `metajax.modalities.ruler` chooses static weights and learns to weigh on the validation classes, and measures on
the test classes. Where classes are few, intervals are over splits of the classes, one net each, else over tasks.

    METAJAX_DATA=... python benchmarks/ruler.py --data strokes digits hanzi groceries
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.modalities import late_head, modal_prototypes, restrict
from metajax.modalities.measurement import known

WAYS, SHOTS, QUERIES, WIDTH = 5, (1, 5), 7, 32
ROOT = pathlib.Path(__file__).parent / "results"

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["strokes", "digits", "hanzi", "groceries"])
parser.add_argument(
    "--splits", type=int, help="number of splits, by default those of the published result file"
)
parser.add_argument("--steps", type=int, help="steps of training the encoders, by default likewise")
parser.add_argument(
    "--tasks", type=int, default=100, help="validation tasks and test tasks of a split"
)
parser.add_argument(
    "--out", type=pathlib.Path, default=ROOT, help="folder of ruler.json and ruler.png"
)


def strokes(seed):
    """Omniglot image + stroke: 5 alphabets to train, Balinese to validate, Sanskrit and Tagalog to test."""
    data = mj.data.omniglot_strokes()
    of = lambda names: mj.data.select(
        data, lambda name: any(f"{alphabet}/" in name for alphabet in names)
    )
    held_out = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}
    train = mj.data.select(
        data, lambda name: not any(f"{a}/" in name for part in held_out.values() for a in part)
    )
    encoders = {"image": image(seed), "stroke": pen(seed)}
    parts = (train, *map(of, held_out.values()))
    return parts, encoders, twenty, split_of(*parts)


def digits(seed):
    """Written + spoken digits: 5 to train and, on other examples, to validate; 5 to test.

    Five classes teach a picture too little, so four of five tasks are of Omniglot, where there is nothing to hear.
    """
    rng = np.random.default_rng(seed)
    data, chosen = mj.data.paired_digits(seed=seed), rng.permutation(10) < 5
    train, test = mj.data.select(data, chosen), mj.data.select(data, ~chosen)
    fold = np.arange(len(train.y)) % 200 < 150
    part = lambda kept: mj.data.dataset(
        jax.tree.map(lambda leaf: np.asarray(leaf)[kept], train.x), train.y[kept]
    )
    one, characters = mj.data.episodes(5, 1, 5), mj.data.omniglot()

    def silent(batch):
        value = {"image": batch.x, "audio": jnp.zeros((len(batch.y), 6000))}
        return batch._replace(
            x=mj.data.as_modalities(value, {"audio": jnp.zeros(len(batch.y), bool)})
        )

    def sample(both, key):
        digits, characters = both
        first, *keys = jax.random.split(key, 5)
        others = [one(characters, k) for k in keys]
        tasks = [
            one(digits, first),
            *(mj.Task(silent(task.support), silent(task.query)) for task in others),
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)

    parts = (part(fold), characters), part(~fold), test
    classes = mj.data.class_split("digits", {"train": train, "test": test})
    return parts, {"image": image(seed), "audio": audio(seed)}, sample, classes


def hanzi(seed):
    """Chinese characters: 47 radicals to train, 20 to validate, 27 to test, drawn at random."""
    parts = mj.data.split_classes(mj.data.hanzi(), (47, 20, 27), seed=seed)
    encoders = {"image": image(seed), "stroke": pen(seed), "definition": text(seed)}
    return parts, encoders, twenty, split_of(*parts)


def groceries(seed):
    """Groceries, grey + colour: the latter in 4 x 4 places; whole coarse classes are drawn, 23, 9 and 11."""
    data = mj.data.groceries(size=32)
    grey = np.asarray(data.x, np.float32).mean(axis=-1, keepdims=True)
    small = (np.asarray(data.x, np.float32) - grey).reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4))
    x = mj.data.as_modalities(
        {"grey": grey.astype(np.uint8), "colour": small.reshape(len(small), -1) / 64}
    )
    data = mj.data.dataset(x, data.y, names=data.names)
    coarse = np.array([name.split("/")[0] for name in data.names])
    place = {
        name: i for i, name in enumerate(np.random.default_rng(seed).permutation(np.unique(coarse)))
    }
    place = np.array([place[name] for name in coarse])
    parts = [
        mj.data.select(data, (low <= place) & (place < high))
        for low, high in ((0, 23), (23, 32), (32, 43))
    ]
    colour = mj.nets.MLP(48, (64,), WIDTH, rngs=nnx.Rngs(seed))
    return parts, {"grey": image(seed), "colour": colour}, ten, split_of(*parts)


def split_of(train, validation, test):
    return mj.data.class_split("classes", {"train": train, "validation": validation, "test": test})


image = lambda seed: mj.nets.Conv4(WIDTH, width=32, rngs=nnx.Rngs(seed))
pen = lambda seed: mj.nets.TemporalConv(4, WIDTH, width=48, rngs=nnx.Rngs(seed + 1))
audio = lambda seed: mj.nets.Audio(
    mj.nets.TemporalConv(40, WIDTH, width=48, rngs=nnx.Rngs(seed + 2)), rate=8000
)
reader = lambda seed: mj.nets.TemporalConv(
    32, WIDTH, width=48, blocks=2, stride=1, rngs=nnx.Rngs(seed + 3)
)
text = lambda seed: mj.nets.Text(2000, reader(seed), rngs=nnx.Rngs(seed))
ten, twenty = (mj.data.meta_batch(mj.data.episodes(ways, 1, 5), tasks=1) for ways in (10, 20))
# {data: (make, steps of training, splits, whether the splits differ in their classes)}
DATA = {
    "strokes": (strokes, 800, 3, False),
    "digits": (digits, 500, 10, True),
    "hanzi": (hanzi, 600, 10, True),
    "groceries": (groceries, 400, 10, True),
}


def train(dataset, encoders, sample, steps, seed):
    """Encoders whose class means answer tasks of the training classes, by each modality alone and by all."""
    apply, params = mj.nets.functional(
        mj.nets.Multimodal(encoders, mj.nets.fusion.mean, WIDTH, 1, rngs=nnx.Rngs(seed))
    )
    encode, loss = (
        functools.partial(apply, method="encode"),
        mj.losses.cross_entropy(late_head(known)),
    )
    names = sorted(encoders)

    def task_loss(params, task, key):
        """The features are computed once, for all of the 1 + M losses."""
        write = modal_prototypes(known, len(task.support.y))
        views = [
            batch._replace(x=mj.Modalities(encode(params, batch.x), batch.x.present))
            for batch in task[:2]
        ]
        adapted = write.adapt(params._replace(fast={}), views[0], key)
        total, metrics = loss(adapted, views[1], key)
        for name in names:
            alone = views[1]._replace(
                x=restrict(views[1].x, [name]), weight=views[1].x.present[name] * 1.0
            )
            total += loss(adapted, alone, key)[0]
        return total, metrics

    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    plan = {"steps": steps, "fuse": 20, "every": steps, "progress": False}
    state, _ = mj.training.fit(
        outer, outer.init(params), sample, dataset, jax.random.key(seed), **plan
    )
    return encode, state.params


def measure(parts, encode, params, tasks, seed):
    """{shots: the ruler}."""
    key = jax.random.key(seed)
    keys = jax.random.split(jax.random.fold_in(key, 1), 3)
    draw = jax.jit(mj.data.meta_batch(mj.data.episodes(WAYS, 8, QUERIES), tasks))
    validation, test = draw(parts[1], keys[0]), draw(parts[2], keys[1])
    return mj.modalities.ruler(encode, params, validation, test, keys[2], ways=WAYS, shots=SHOTS)


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


def report(name, runs, shots):
    """Rows of one data set at one number of shots: over splits where there are many, else over the tasks of all."""
    every = [run[shots] for run in runs]
    over = lambda per_task: (
        [float(p.mean()) for p in per_task] if DATA[name][3] else np.concatenate(per_task)
    )
    tasks = {
        row: over([np.asarray(one.accuracy[row].per_task) for one in every])
        for row in every[0].accuracy
    }
    # The best single modality is that of the validation tasks of each split.
    tasks["best single"] = over(
        [np.asarray(one.accuracy[one.best_single].per_task) for one in every]
    )
    against = lambda row, other: summary(np.subtract(tasks[row], tasks[other]))
    mean = {row: float(np.mean(values)) for row, values in tasks.items()}
    hindsight = max(
        every[0].learned, key=mean.get
    )  # the single modality that is best on the test itself
    gain = mean["oracle"] - mean["best single"]
    curve = {k: float(np.mean([one.curve[k].mean for one in every])) for k in every[0].curve}
    reached = mj.modalities.first_crossing(curve, mean["learned"])
    weights = [{n: float(w.mean()) for n, w in one.learned.items()} for one in every]
    return {
        "data": name,
        "shots": shots,
        "accuracy": {row: summary(values) for row, values in tasks.items()},
        "learned minus best single": against("learned", "best single"),
        "learned minus static": against("learned", "static"),
        "learned minus hindsight": against("learned", hindsight),
        "gap closed": (mean["learned"] - mean["best single"]) / gain,
        "shots equivalent": float(reached) if np.isfinite(reached) else None,
        "most shots": max(curve),
        "static weights": {
            n: float(np.mean([one.static[n] for one in every])) for n in every[0].static
        },
        "learned weights": {n: float(np.mean([of[n] for of in weights])) for n in weights[0]},
    }


def main(options):
    # The programs of all splits are the same, so that only the first one waits for the compiler.
    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    started, rows, digests = time.perf_counter(), [], {}
    figure, axes = plt.subplots(
        1, len(options.data), figsize=(4.2 * len(options.data), 3.6), layout="constrained"
    )
    for axis, name in zip(np.atleast_1d(axes), options.data, strict=True):
        make, steps, splits, _ = DATA[name]
        runs = []
        for seed in range(options.splits or splits):
            parts, encoders, sample, split = make(seed)
            digests.setdefault(name, []).append(split.digest)
            encode, params = train(parts[0], encoders, sample, options.steps or steps, seed)
            runs.append(measure(parts, encode, params, options.tasks, seed))
            print(f"{name}, split {seed}, {time.perf_counter() - started:.0f} s so far", flush=True)
        mine = [report(name, runs, shots) for shots in SHOTS]
        for row in mine:
            print(json.dumps(row, indent=1))
        shown = [row for row in mine[0]["accuracy"] if row != "best single"]
        points = {
            f"{row['shots']} shot{'s' * (row['shots'] > 1)}": {
                r: np.divide(row["accuracy"][r], 100) for r in shown
            }
            for row in mine
        }
        mj.plots.accuracies(
            axis, points, title=f"{make.__doc__.split(':')[0].split('.')[0]}, {WAYS}-way"
        )
        rows += mine
        header = {
            "commit": git("rev-parse", "--short", "HEAD")
            + "+" * bool(git("status", "--porcelain", "metajax")),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "threads": os.cpu_count(),
            "seconds": time.perf_counter() - started,
            "splits": {row["data"]: options.splits or DATA[row["data"]][2] for row in rows},
            "digests": digests,
            "tasks": options.tasks,
        }
        (options.out / "ruler.json").write_text(
            json.dumps({**header, "rows": rows}, indent=1) + "\n"
        )
        figure.savefig(options.out / "ruler.png", dpi=100)


def git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main(parser.parse_args())
