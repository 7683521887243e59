"""Workload W7: episodes a second that `data.episodes` draws on the device, against NumPy.

5-way 1-shot tasks with 15 queries a class in batches of 32, from as many images as Omniglot has
(1 623 classes of 20, 28x28, uint8; their pixels are random, which makes no difference to a
sampler), each class in four rotations. `np.take` only copies rows that are known beforehand; the
sampler in NumPy draws classes, rotations and rows as ours does. The share of a step of training is
that of W2 with its 8 tasks. Writes benchmarks/results/episodes.json.

python benchmarks/episodes.py
python benchmarks/episodes.py --tiny --repeats 2 --out /tmp/results    # to see that it runs
"""

import argparse
import dataclasses
import pathlib

import harness
import jax
import jax_maml
import numpy as np
import workloads

import metajax as mj

WAYS, SHOTS, QUERIES = 5, 1, 15
ROWS = SHOTS + QUERIES
EXAMPLES = 20  # of each class
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--repeats", type=int, default=100)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def in_numpy(x, rng, tasks):
    """A batch of tasks drawn by NumPy.

    Args:
        x: [classes, examples, height, width, 1].
        rng: a NumPy generator.
        tasks: number of tasks.

    Returns:
        [tasks, ways, rows, height, width, 1].
    """
    images = np.empty((tasks, WAYS, ROWS, *x.shape[2:]), x.dtype)
    for task in images:
        for place, drawn in enumerate(rng.choice(4 * len(x), WAYS, replace=False)):
            turns, number = divmod(drawn, len(x))
            rows = rng.permutation(x.shape[1])[:ROWS]
            task[place] = np.rot90(x[number, rows], turns, axes=(1, 2))
    return images


def sampler(tasks):
    """(dataset, key) -> tasks, compiled."""
    draw = mj.data.episodes(ways=WAYS, shots=SHOTS, queries=QUERIES)
    return jax.jit(mj.data.meta_batch(draw, tasks=tasks))


def make_dataset(x):
    """Images [classes, examples, ...] as a data set."""
    labels = np.repeat(np.arange(len(x)), x.shape[1])
    return mj.data.dataset(x.reshape(-1, *x.shape[2:]), labels, scale=255)


def measure(x, tasks, repeats):
    """Rows; ratios are to `np.take`."""
    rng = np.random.default_rng(1)
    key = jax.random.key(0)
    flat = x.reshape(len(x) * EXAMPLES, -1)
    known = rng.integers(0, len(flat), tasks * WAYS * ROWS)
    upright = make_dataset(x)
    rotated = mj.data.rotated(upright)
    as_stored = dataclasses.replace(rotated, scale=None)
    upright_as_stored = dataclasses.replace(upright, scale=None)
    draw = sampler(tasks)
    runs = {
        "`np.take`": lambda: np.take(flat, known, axis=0),
        "NumPy": lambda: in_numpy(x, rng, tasks),
        "`episodes`, uint8 as stored, without rotations": lambda: draw(upright_as_stored, key),
        "`episodes`, uint8 as stored": lambda: draw(as_stored, key),
        "`episodes`, scaled to float32": lambda: draw(rotated, key),
    }
    rows = []
    for name, times in harness.in_turn(runs, repeats).items():
        row = {"workload": "W7", "implementation": name, "tasks": tasks}
        row |= harness.median(times)
        row["a_second"] = tasks / row["seconds"]
        first = rows[0] if rows else row
        row["ratio"] = first["seconds"] / row["seconds"]
        speed = f"{row['a_second']:.4g} episodes a second, {row['ratio']:.2f} of np.take"
        print(f"{name}: {speed}", flush=True)
        rows.append(row)
    return rows


def share(x, workload, repeats):
    """The time to draw the tasks of a step of W2, as a share of that step."""
    dataset = mj.data.rotated(make_dataset(x))
    draw = sampler(workload.tasks)
    step, _, _ = jax_maml.build(workload)
    runs = {"draw": lambda: draw(dataset, jax.random.key(0)), "step": step}
    times = harness.in_turn(runs, repeats)
    drawn = harness.median(times["draw"])["seconds"]
    stepped = harness.median(times["step"])["seconds"]
    print(f"Drawing {workload.tasks} tasks takes {100 * drawn / stepped:.2g} % of a step of W2.")
    return {
        "tasks": workload.tasks,
        "draw_seconds": drawn,
        "step_seconds": stepped,
        "share": drawn / stepped,
    }


def main(options):
    classes, tasks = (30, 4) if options.tiny else (1623, 32)
    shape = (classes, EXAMPLES, 28, 28, 1)
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    workload = (workloads.TINY if options.tiny else workloads.WORKLOADS)["W2"]()
    rows = measure(x, tasks, options.repeats)
    of_a_step = share(x, workload, workload.repeats)
    harness.save(options.out, "episodes", harness.header(seed=0, rows=rows, share=of_a_step))


if __name__ == "__main__":
    main(parser.parse_args())
