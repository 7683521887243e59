"""Workload W7: episodes a second that `data.episodes` draws on the device, against numpy.

5-way 1-shot tasks with 15 queries a class in batches of 32, from as many images as Omniglot has (1 623 classes of 20,
28x28, uint8; their pixels are random, which no sampler notices), each class in four rotations. `np.take` only copies
rows that are known beforehand; the sampler in numpy draws classes, rotations and rows as ours does. The share of a
step of training is that of W2 with its 8 tasks. Writes benchmarks/results/episodes.json.

    python benchmarks/episodes.py
    python benchmarks/episodes.py --tiny --repeats 2 --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib

import harness
import jax
import jax_maml
import numpy as np
import workloads

import metajax as mj

WAYS, ROWS = 5, 16
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--repeats", type=int, default=100)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def in_numpy(x, rng, tasks):
    """From x [classes, examples, height, width, 1] -> images [tasks, ways, rows, height, width, 1]."""
    images = np.empty((tasks, WAYS, ROWS, *x.shape[2:]), x.dtype)
    for task in images:
        for place, drawn in enumerate(rng.choice(4 * len(x), WAYS, replace=False)):
            rows = rng.permutation(x.shape[1])[:ROWS]
            task[place] = np.rot90(x[drawn % len(x), rows], drawn // len(x), axes=(1, 2))
    return images


def sampler(tasks, scale, rotations=True):
    sizes = {"ways": WAYS, "shots": 1, "queries": ROWS - 1}
    return jax.jit(
        mj.data.meta_batch(mj.data.episodes(**sizes, rotations=rotations, scale=scale), tasks=tasks)
    )


def measure(classes, tasks, repeats):
    """Rows; ratios are to `np.take`."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    x = rng.integers(0, 256, (classes, 20, 28, 28, 1), np.uint8)
    dataset = mj.data.dataset(x.reshape(-1, 28, 28, 1), np.repeat(np.arange(classes), 20))
    flat, known = x.reshape(classes * 20, -1), rng.integers(0, classes * 20, tasks * WAYS * ROWS)
    stored, scaled, plain = (
        sampler(tasks, False),
        sampler(tasks, True),
        sampler(tasks, False, rotations=False),
    )
    runs = {
        "`np.take`": lambda: np.take(flat, known, axis=0),
        "numpy": lambda: in_numpy(x, rng, tasks),
        "`episodes(scale=False)` without rotations": lambda: plain(dataset, key),
        "`episodes(scale=False)`": lambda: stored(dataset, key),
        "`episodes()`, to float32": lambda: scaled(dataset, key),
    }
    rows = []
    for name, times in harness.in_turn(runs, repeats).items():
        row = {"workload": "W7", "implementation": name, "tasks": tasks} | harness.median(times)
        row |= {
            "a_second": tasks / row["seconds"],
            "ratio": (rows or [row])[0]["seconds"] / row["seconds"],
        }
        print(
            f"{name}: {row['a_second']:.4g} episodes a second, {row['ratio']:.2f} of np.take",
            flush=True,
        )
        rows.append(row)
    return rows, dataset


def share(dataset, workload, repeats):
    """What drawing the tasks of a step of W2 takes, as a share of that step."""
    draw = sampler(workload.tasks, True)
    step = jax_maml.build(workload)[0]
    times = harness.in_turn(
        {"draw": lambda: draw(dataset, jax.random.key(0)), "step": step}, repeats
    )
    drawn, stepped = (harness.median(times[name])["seconds"] for name in ("draw", "step"))
    print(f"Drawing {workload.tasks} tasks takes {100 * drawn / stepped:.2g} % of a step of W2.")
    return {
        "tasks": workload.tasks,
        "draw_seconds": drawn,
        "step_seconds": stepped,
        "share": drawn / stepped,
    }


if __name__ == "__main__":
    options = parser.parse_args()
    rows, dataset = measure(*((30, 4) if options.tiny else (1623, 32)), options.repeats)
    workload = (workloads.TINY if options.tiny else workloads.WORKLOADS)["W2"]()
    of_a_step = share(dataset, workload, workload.repeats)
    harness.save(options.out, "episodes", harness.header(seed=0, rows=rows, share=of_a_step))
