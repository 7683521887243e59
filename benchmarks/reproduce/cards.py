"""What the protocol cards share: a training and its published columns, from data to result file.

A card is a file of this folder. Its `PAPER` names the paper, and its `ROWS`, {name: Row}, state
every choice of the protocol. A run keeps its checkpoints, its log and a description of itself in a
folder of its own, and goes on where it was. Results are in benchmarks/results/reproduce/, the fixed
test tasks in benchmarks/reproduce/tasks/.
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import metajax as mj

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))

import harness  # noqa: E402

CURVE = 30
"""Points of a training curve."""
VALIDATION_TASKS = 100
"""Tasks of each point of the curve."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A published figure, and the test that ours comes from.

    Attributes:
        published: the figure of the paper: per cent of accuracy, or the squared error. None where
            nothing is published.
        interval: half of its published interval; None where none is published.
        ways: number of classes of a task; None where there are no classes.
        shots: support examples of each class.
        queries: query examples of each class.
        tests: number of test tasks.
        inner_steps: inner steps in the test; None where nothing descends.
        inductive: whether a query sees no other query in the test.
        reason: why ours is outside, as the page says it.
    """

    published: float | None
    interval: float | None = None
    ways: int | None = None
    shots: int = 1
    queries: int = 15
    tests: int = 600
    inner_steps: int | None = None
    inductive: bool = False
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One training of a paper.

    Attributes:
        protocol: every choice of it, plain values by name. It has "ways", "shots", "queries",
            "tasks" and "iterations" of the training.
        parts: protocol -> ({part: data set}, its description), with parts "train", "validation" and
            "test".
        draw: (ways, shots, queries) -> sampler of a task.
        learner: (protocol, column) -> Learner; without a column, that of the training.
        optimizer: (protocol, steps) -> the outer optimizer of a training of so many steps.
        columns: {name: Column}.
        metric: what the columns state: "accuracy" in per cent, or "loss".
        fuse: outer steps in one compiled call.
        tasks_at_once: training tasks in one vmap.
    """

    protocol: dict[str, Any]
    parts: Callable
    draw: Callable
    learner: Callable
    optimizer: Callable
    columns: dict[str, Column]
    metric: str = "accuracy"
    fuse: int = 10
    tasks_at_once: int | None = None


SIZES = {"train": 1100, "validation": 100, "test": 423}


def omniglot(protocol):
    """({part: characters}, description). With "rotations", quarter turns are further classes.

    Args:
        protocol: its "split_seed" draws the characters of each part, and "rotations" are the parts
            with quarter turns.
    """
    characters = mj.data.omniglot()
    split = mj.data.draw_split(characters.names, SIZES, seed=protocol["split_seed"])
    parts = {}
    for part in SIZES:
        chosen = mj.data.select_part(characters, split, part)
        parts[part] = mj.data.rotated(chosen) if part in protocol["rotations"] else chosen
    return parts, {"data": "omniglot", "split": split.name, "digest": split.digest}


def sinusoids(protocol):
    """({part: nothing}, description) of tasks that are drawn from functions."""
    del protocol
    return {"train": (), "validation": (), "test": ()}, {"data": "sinusoids"}


def draw_sinusoids(ways, shots, queries):
    """The sampler of sinusoids, which have no ways."""
    del ways
    return mj.data.sinusoids(shots, queries)


def tests_of(row, column, data, part, options):
    """The test tasks of a column from their file, which is written first where there is none.

    Rows with the same data and the same sizes share the file, so that methods are paired.

    Returns:
        (tasks, the fingerprint of their row numbers, labels and weights).
    """
    sample = row.draw(column.ways, column.shots, column.queries)
    sizes = [column.ways, column.shots, column.queries, column.tests]
    turned = "turned" if "test" in row.protocol.get("rotations", ()) else None
    words = [data["data"], *sizes, turned, data.get("digest")]
    path = options.tasks / ("-".join(str(word) for word in words if word is not None) + ".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        mj.data.save_tasks(path, sample, part, jax.random.key(2), tasks=column.tests)
    tasks = mj.data.load_tasks(path, part)
    return tasks, fingerprint(path)


def fingerprint(path):
    """A digest of what a file of tasks holds: arrays by name, whatever wrote them."""
    digest = hashlib.sha256()
    with np.load(path) as arrays:
        for name in sorted(set(arrays.files) - {"about"}):
            array = arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def measured(row, learner, params, tasks):
    """The metric of each task, accuracies in per cent."""
    score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
    found = jax.jit(score)(params, tasks, jax.random.key(1))[row.metric].per_task
    return 100 * found if row.metric == "accuracy" else found


def cell_of(per_task):
    """[mean, half the 95 % interval], or None where it is not finite: some task diverges."""
    summary = mj.summarize(per_task)
    cell = [float(summary.mean), float(summary.interval)]
    return cell if all(map(math.isfinite, cell)) else None


def train(row, parts, folder, seed, steps):
    """(params, curve of validation, hours) after so many steps. Goes on where the folder ends."""
    protocol = row.protocol
    learner = row.learner(protocol | {"seed": seed}, None)
    outer = mj.outer_loop(
        learner.task_loss, row.optimizer(protocol, steps), tasks_at_once=row.tasks_at_once
    )
    sizes = (protocol["ways"], protocol["shots"], protocol["queries"])
    sample = row.draw(*sizes)
    few = jax.jit(mj.data.meta_batch(sample, VALIDATION_TASKS))
    validation = few(parts["validation"], jax.random.key(3))
    score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
    fuse = min(row.fuse, steps)
    every = fuse * max(1, steps // CURVE // fuse)
    log = folder / "log.jsonl"
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(sample, protocol["tasks"]),
        parts["train"],
        jax.random.key(seed),
        steps=steps,
        fuse=fuse,
        every=every,
        evaluate=lambda params, key: score(params, validation, key),
        log=log,
        checkpoint=folder / "checkpoints",
    )
    records = [json.loads(line) for line in log.read_text().splitlines()]
    curve = [[one["step"], one[f"evaluate/{row.metric}"]] for one in records]
    return state.params, curve, hours(records)


def hours(records):
    """Hours of training of a run that may have been cut off: each part counts its own seconds."""
    total = 0.0
    before = 0.0
    for record in records:
        now = record["seconds"]
        total += now - before if now >= before else now
        before = now
    return total / 3600


def open_run(folder, about):
    """Makes the folder of a run, or checks that the one that is there is of the same run.

    Raises:
        SystemExit: it is of another protocol or other versions.
    """
    path = folder / "about.json"
    about = json.loads(json.dumps(about))
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


def plain(row):
    """What a result file states of a row: its protocol, and how each column is tested.

    The figures of the paper are not in it: they are read from the card.
    """
    columns = {}
    for name, column in row.columns.items():
        stated = dataclasses.asdict(column)
        for said in ("published", "interval", "reason"):
            del stated[said]
        columns[name] = stated
    return json.loads(json.dumps({"protocol": row.protocol, "columns": columns}))


def tiny(row):
    """The same row in a size that only shows that it runs."""
    ways = row.protocol["ways"] and 5
    columns = {}
    for name, column in row.columns.items():
        columns[name] = dataclasses.replace(column, ways=ways, tests=4, queries=2)
    smaller = {"ways": ways, "iterations": 2, "tasks": 2, "width": 4}
    return dataclasses.replace(
        row, protocol=row.protocol | smaller, columns=columns, fuse=1, tasks_at_once=1
    )


def run(name, row, seed, options):
    """Trains and tests one row, and returns what the result file says of it."""
    parts, data = row.parts(row.protocol)
    steps = max(1, round(options.fraction * row.protocol["iterations"]))
    folder = options.runs / f"{options.paper}-{name}-seed{seed}-fraction{options.fraction:g}"
    versions = {package: harness.version(package) for package in ("metajax", *harness.PACKAGES)}
    open_run(folder, plain(row) | {"fraction": options.fraction, "versions": versions})
    params, curve, took = train(row, parts, folder, seed, steps)
    columns = {}
    for title, column in row.columns.items():
        learner = row.learner(row.protocol | {"seed": seed}, column)
        tasks, digest = tests_of(row, column, data, parts["test"], options)
        per_task = measured(row, learner, params, tasks)
        columns[title] = {row.metric: cell_of(per_task), "tasks": digest}
        print(f"{name}, {title}: {mj.summarize(per_task)}", flush=True)
    return {
        **plain(row),
        **data,
        "row": name,
        "seed": seed,
        "fraction": options.fraction,
        "steps": steps,
        "hours": took,
        "curve": curve,
        "measured": columns,
        **harness.brief_header(),
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
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--fraction", type=fraction, default=1.0, help="share of the iterations, in (0, 1]"
    )
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    parser.add_argument("--runs", type=pathlib.Path, default=HERE.parents[1] / "outputs")
    parser.add_argument("--tasks", type=pathlib.Path, default=HERE / "tasks")
    parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS / "reproduce")
    return parser


def main(options, paper, rows):
    """Runs the chosen rows of a card, and adds them to its result file.

    Args:
        options: of the command line.
        paper: name of the card and of its result file.
        rows: {name: Row}.
    """
    options.paper = paper
    path = options.out / f"{paper}.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report = collections.defaultdict(dict, report)
    for name in options.rows:
        row = tiny(rows[name]) if options.tiny else rows[name]
        for seed in options.seeds:
            key = f"{name}, seed {seed}, fraction {options.fraction:g}"
            report["rows"][key] = run(name, row, seed, options)
            harness.save(options.out, paper, report)
