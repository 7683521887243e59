"""What the protocol cards share: a training and its published columns, from data to result file.

A card is a file of this folder, with `PAPER`, the paper in short, and `ROWS`, {name: Row}. A row
states every choice of its training in one flat dict, and a column what its test changes. The result
file of a card has its name, in benchmarks/results/reproduce/; `python benchmarks/readme.py` then
writes docs/papers.md anew. The fixed test tasks are in benchmarks/reproduce/tasks/.

A run has a folder of its own below --runs, with a description, a log, and a checkpoint at every
thirtieth of the training. The same command goes on from the last one; after the end of the training
it only tests again.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import metajax as mj

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))

import harness  # noqa: E402

CURVE = 30
"""Points of a training curve, and checkpoints."""
VALIDATION_TASKS = 100
"""Tasks of each point of the curve."""
SIZES = {"train": 1100, "validation": 100, "test": 423}
"""Characters of each part of Omniglot."""
OMNIGLOT = {
    "split_seed": 0,
    "rotations": ["train", "validation", "test"],
    "width": 64,
    "inductive": False,
    "outer_rate": 1e-3,
    "decay": None,
}
"""Choices that most rows of Omniglot share. "rotations" are the parts in which the quarter turns of
a character are further classes."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A published figure, and the test that ours comes from.

    Attributes:
        published: the figure of the paper, per cent of accuracy or the squared error; None where
            nothing is published.
        interval: half of its published interval; None where none is published.
        changes: what the test changes of the protocol, such as {"ways": 20, "queries": 5}.
        tests: number of test tasks.
        unverified: whether the figure was not read in the paper or quoted from it.
        reason: why ours is outside, as the page says it.
    """

    published: float | None
    interval: float | None
    changes: dict[str, Any]
    tests: int
    unverified: bool
    reason: str


def column(published, interval=None, *, tests=600, unverified=False, reason="", **changes):
    """A column whose test changes these entries of the protocol."""
    return Column(published, interval, changes, tests, unverified, reason)


def omniglot(protocol):
    """({part: characters}, description)."""
    characters = mj.data.omniglot()
    split = mj.data.draw_split(characters.names, SIZES, seed=protocol["split_seed"])
    parts = {}
    for part in SIZES:
        chosen = mj.data.select_part(characters, split, part)
        parts[part] = mj.data.rotated(chosen) if part in protocol["rotations"] else chosen
    turned = "-turned" if "test" in protocol["rotations"] else ""
    return parts, {"data": f"omniglot{turned}", "split": split.name, "digest": split.digest}


def drawn(name, protocol):
    """({part: nothing}, description) of tasks that need no data set."""
    del protocol
    return {"train": (), "validation": (), "test": ()}, {"data": name}


def episodes(protocol):
    """The sampler of a task of classes."""
    return mj.data.episodes(protocol["ways"], protocol["shots"], protocol["queries"])


def adam(protocol, steps):
    """Adam, whose step size is constant or decays as "decay" says.

    That is {"factor", "every"}, multiplied at every so many iterations; or {"cosine_to"}, the last
    step size. A training of fewer steps than the protocol's has the same step size at its end.
    """
    rate, decay = protocol["outer_rate"], protocol["decay"]
    if decay is not None and "cosine_to" in decay:
        rate = optax.cosine_decay_schedule(rate, steps, decay["cosine_to"] / rate)
    elif decay is not None:
        every = max(1, decay["every"] * steps / protocol["iterations"])
        rate = optax.exponential_decay(rate, every, decay["factor"], staircase=True)
    return optax.adam(rate, eps=protocol.get("outer_epsilon", 1e-8))


def strided_conv4(protocol):
    """Conv4 with stride 2 and the spatial mean, MAML's net for Omniglot."""
    rngs = nnx.Rngs(protocol["seed"])
    return mj.nets.Conv4(protocol["ways"], width=protocol["width"], rngs=rngs)


def pooled_conv4(protocol):
    """Conv4 with max-pool; of 28x28 pixels one place is left."""
    rngs = nnx.Rngs(protocol["seed"])
    return mj.nets.Conv4(protocol["ways"], width=protocol["width"], pool=True, rngs=rngs)


class FlatConv4(mj.nets.Conv4):
    """Conv4 with stride 2 whose features are the 2x2 places of the last block, not their mean."""

    def __init__(self, outputs, *, width, rngs):
        super().__init__(outputs, width=width, rngs=rngs)
        self.head = nnx.Linear(4 * width, outputs, rngs=rngs)

    def embed(self, x, reference=None):
        """[n, 28, 28, 1] -> [n, 2 * 2 * width]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nnx.relu(norm(convolution(x), reference))
        return x.reshape(len(x), -1)


def flat_conv4(protocol):
    """Conv4 with stride 2 and all places, the net of Reptile and of iMAML."""
    return FlatConv4(protocol["ways"], width=protocol["width"], rngs=nnx.Rngs(protocol["seed"]))


def initialised(net, seed, draw):
    """The net with the weights of all its linear layers drawn anew.

    Args:
        net: a Flax module.
        seed: of the draws.
        draw: (key, inputs, outputs) -> (kernel [inputs, outputs], bias [outputs]).
    """
    key = jax.random.key(seed)
    for number, (_, layer) in enumerate(nnx.iter_modules(net)):
        if isinstance(layer, nnx.Linear):
            kernel, bias = draw(jax.random.fold_in(key, number), *layer.kernel.shape)
            layer.kernel[...] = kernel
            layer.bias[...] = bias
    return net


@dataclasses.dataclass(frozen=True)
class Row:
    """One training of a paper.

    Attributes:
        protocol: every choice of it, plain values by name, all of them read by the functions below.
            It has the "shots", "queries", "tasks" and "iterations" of the training.
        learner: protocol -> Learner. The protocol also has the "seed", and the number of "steps",
            which is that of the iterations or a fraction of it.
        columns: {name: Column}.
        optimizer: (protocol, steps) -> the outer optimizer.
        parts: protocol -> ({"train", "validation", "test": data set}, description).
        draw: protocol -> sampler of a task.
        metric: what the columns state: "accuracy" in per cent, or "loss".
        fuse: outer steps in one compiled call.
        tasks_at_once: training tasks in one vmap.
    """

    protocol: dict[str, Any]
    learner: Callable
    columns: dict[str, Column]
    optimizer: Callable = adam
    parts: Callable = omniglot
    draw: Callable = episodes
    metric: str = "accuracy"
    fuse: int = 10
    tasks_at_once: int | None = None


def tests_of(row, column, data, part, folder):
    """The test tasks of a column from their file, which is written first where there is none.

    Rows with the same data and the same sizes share the file, so that methods are paired.

    Returns:
        (tasks, name of the file, fingerprint of what it holds).
    """
    protocol = row.protocol | column.changes
    ways = f"{protocol['ways']}-way-" if "ways" in protocol else ""
    sizes = f"{ways}{protocol['shots']}-shot-{protocol['queries']}-queries-{column.tests}"
    words = [data["data"], sizes, data.get("digest", "")]
    path = folder / ("-".join(filter(None, words)) + ".npz")
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        mj.data.save_tasks(path, row.draw(protocol), part, jax.random.key(2), tasks=column.tests)
    return mj.data.load_tasks(path, part), path.name, fingerprint(path)


def fingerprint(path):
    """A digest of what a file of tasks holds: arrays by name, whatever wrote them."""
    digest = hashlib.sha256()
    with np.load(path) as arrays:
        for name in sorted(set(arrays.files) - {"about"}):
            array = arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def measure(row, learner, params, tasks):
    """[mean, half its 95 % interval] of the metric, or None where some task is not finite."""
    score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
    per_task = jax.jit(score)(params, tasks, jax.random.key(1))[row.metric].per_task
    summary = mj.summarize(100 * per_task if row.metric == "accuracy" else per_task)
    cell = [float(summary.mean), float(summary.interval)]
    return cell if all(map(math.isfinite, cell)) else None


def train(row, parts, folder, seed, steps):
    """(params, curve of validation, hours) after so many steps; goes on from a checkpoint.

    Raises:
        SystemExit: it was interrupted; what was learned is in the folder.
    """
    protocol = row.protocol | {"seed": seed, "steps": steps}
    learner = row.learner(protocol)
    optimizer = row.optimizer(protocol, steps)
    outer = mj.outer_loop(learner.task_loss, optimizer, tasks_at_once=row.tasks_at_once)
    sample = row.draw(protocol)
    few = jax.jit(mj.data.meta_batch(sample, VALIDATION_TASKS))
    validation = few(parts["validation"], jax.random.key(3))
    score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
    fuse = min(row.fuse, steps)
    log = folder / "log.jsonl"
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(sample, protocol["tasks"]),
        parts["train"],
        jax.random.key(seed),
        steps=steps,
        fuse=fuse,
        every=fuse * max(1, steps // CURVE // fuse),
        evaluate=lambda params, key: score(params, validation, key),
        log=log,
        checkpoint=folder / "checkpoints",
    )
    if int(state.step) < steps:
        raise SystemExit(f"Interrupted after step {int(state.step)}; the same command goes on.")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    percent = 100 if row.metric == "accuracy" else 1
    curve = [[one["step"], percent * one[f"evaluate/{row.metric}"]] for one in records]
    return state.params, curve, hours(records, protocol["tasks"])


def hours(records, tasks):
    """Hours of training, without compilation and evaluation, however often it was cut off."""
    before = 0
    seconds = 0.0
    for record in records:
        seconds += (record["step"] - before) * tasks / record["tasks_per_second"]
        before = record["step"]
    return seconds / 3600


def open_run(folder, about):
    """Makes the folder of a run, or checks that the one that is there is of the same run.

    Raises:
        SystemExit: it is of another protocol or other versions.
    """
    path = folder / "about.json"
    if path.exists():
        found = json.loads(path.read_text())
        if changed := differences(found, about):
            raise SystemExit(
                f"{folder} has a run that differs from this one in {changed}. Go on with what it "
                "was started with, give another folder with --runs, or delete it."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about, indent=1) + "\n")


def differences(found, wanted, name=""):
    """Where two descriptions differ, as text: "tasks: 32 there, 16 here"."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = [differences(found.get(key), wanted.get(key), key) for key in keys]
        return ", ".join(part for part in parts if part)
    return "" if found == wanted else f"{name}: {found} there, {wanted} here"


def tiny(row):
    """The same row in a size that only shows that it runs."""
    ways = {"ways": 5} if "ways" in row.protocol else {}
    columns = {}
    for name, column in row.columns.items():
        changes = {**column.changes, **ways, "queries": 2}
        columns[name] = dataclasses.replace(column, changes=changes, tests=4)
    protocol = row.protocol | ways | {"iterations": 2, "tasks": 2, "width": 4}
    return dataclasses.replace(row, protocol=protocol, columns=columns, fuse=1, tasks_at_once=1)


def run(name, row, seed, options):
    """Trains and tests one row, and returns what the result file says of it."""
    parts, data = row.parts(row.protocol)
    steps = max(1, round(options.fraction * row.protocol["iterations"]))
    versions = {package: harness.version(package) for package in ("metajax", *harness.PACKAGES)}
    about = {"protocol": row.protocol, **data, "fraction": options.fraction, "versions": versions}
    folder = options.runs / f"{options.paper}-{name}-seed{seed}-fraction{options.fraction:g}"
    open_run(folder, about)
    params, curve, took = train(row, parts, folder, seed, steps)
    columns = {}
    for title, column in row.columns.items():
        learner = row.learner(row.protocol | column.changes | {"seed": seed, "steps": steps})
        if jax.tree.map(np.shape, learner.params) != jax.tree.map(np.shape, params):
            raise SystemExit(f"The test of {title!r} has a net of other shapes than the training.")
        tasks, file, digest = tests_of(row, column, data, parts["test"], options.tasks)
        found = measure(row, learner, params, tasks)
        print(f"{name}, {title}: {found}", flush=True)
        columns[title] = {
            row.metric: found,
            "changes": column.changes,
            "tests": column.tests,
            "file": file,
            "fingerprint": digest,
        }
    return {**about, "row": name, "seed": seed, "steps": steps, "hours": took} | {
        "curve": curve,
        "columns": columns,
    }


def fraction(text):
    """A share of the iterations, in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share of the iterations, in (0, 1].")
    return value


def make_parser(description, rows):
    """The command line of a card."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", choices=list(rows), default=list(rows), help="all where not given"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="a training for each")
    parser.add_argument(
        "--fraction", type=fraction, default=1.0, help="share of the iterations, in (0, 1]"
    )
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    parser.add_argument(
        "--runs", type=pathlib.Path, help="folder of checkpoints, by default outputs"
    )
    parser.add_argument("--tasks", type=pathlib.Path, help="folder of the fixed test tasks")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the result file")
    return parser


def main(options, paper, rows):
    """Runs the chosen rows of a card, and adds them to its result file.

    Args:
        options: of the command line.
        paper: name of the card and of its result file.
        rows: {name: Row}.
    """
    scratch = pathlib.Path(tempfile.mkdtemp()) if options.tiny else None
    options.paper = paper
    options.runs = options.runs or scratch or HERE.parents[1] / "outputs"
    options.tasks = options.tasks or scratch or HERE / "tasks"
    options.out = options.out or scratch or harness.RESULTS / "reproduce"
    header = harness.brief_header()  # before a result file makes the working tree differ
    for name in options.rows:
        row = tiny(rows[name]) if options.tiny else rows[name]
        for seed in options.seeds:
            found = run(name, row, seed, options) | header
            path = options.out / f"{paper}.json"
            report = json.loads(path.read_text()) if path.exists() else {"rows": {}}
            report["rows"][f"{name}, seed {seed}, fraction {options.fraction:g}"] = found
            harness.save(options.out, paper, report)
