"""Tasks read by grain from a file that is larger than the memory allowed, against tasks that are on the device.

Two figures: a step of W2 whose tasks come from `data.stream`, of that on a batch that stays on the device, runs
interleaved; and what memory the process holds itself while 10 000 tasks are read, without the pages of the file. The
file has random images of 28x28, and the process may not hold as much as the file has. Writes
benchmarks/results/feed.json.

    python benchmarks/feed.py
    python benchmarks/feed.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib
import re
import resource
import tempfile

import harness
import jax
import jax_maml
import numpy as np
import optax
import workloads

import metajax as mj
from metajax import data

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--gigabytes", type=float, default=6.0, help="size of the file")
parser.add_argument(
    "--limit", type=float, default=5.0, help="gigabytes that the process may hold itself"
)
parser.add_argument("--tasks", type=int, default=10_000)
parser.add_argument("--repeats", type=int, default=20)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def write_file(folder, gigabytes):
    """Images uint8[examples, 28, 28, 1] and their labels, 20 of each class."""
    examples = int(gigabytes * 1e9 / 784 / 20) * 20
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (examples, 28, 28, 1))
    rng, piece = np.random.default_rng(0), 100_000
    noise = rng.integers(0, 256, (piece, 28, 28, 1), np.uint8)
    for first in range(0, examples, piece):
        images[first : first + piece] = noise[: examples - first]
    images.flush()
    return folder / "images.npy", np.arange(examples) // 20


def held():
    """Bytes of memory that are the process's own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def compare(feed, tasks, width, repeats):
    """Seconds of a step on tasks of the stream, and on resident ones."""
    apply, params = jax_maml.make_net(workloads.images(tasks, width).weights)
    loss = mj.losses.cross_entropy(apply)
    descent = mj.inner_loop(loss, optax.sgd(0.1), steps=5)
    outer = mj.outer_loop(mj.query_loss(descent, loss), optax.adam(1e-3))
    step = jax.jit(lambda state, tasks, key: outer.step(state, feed.finish(tasks, key), key))
    state, key = outer.init(params), jax.random.key(0)
    source = data.tasks_of(feed, key)
    resident = jax.device_put(next(source))
    runs = {
        "resident": lambda: step(state, resident, key),
        "grain": lambda: step(state, next(source), key),
    }
    return {name: harness.median(times) for name, times in harness.in_turn(runs, repeats).items()}


def read(feed, number, tasks):
    """Bytes held after each tenth of the tasks."""
    source, sizes = data.tasks_of(feed, jax.random.key(1)), []
    tenth = -(-number // (10 * tasks))
    for _ in range(10):
        for _ in range(tenth):
            next(source)
        sizes.append(held())
    return sizes


def main(options):
    with tempfile.TemporaryDirectory() as folder:
        path, labels = write_file(pathlib.Path(folder), options.gigabytes)
        resource.setrlimit(resource.RLIMIT_DATA, (int(options.limit * 1e9), resource.RLIM_INFINITY))
        images = np.load(path, mmap_mode="r")
        rows = data.dataset(np.arange(len(labels), dtype=np.int32), labels)
        draw = data.episodes(5, 1, 15)
        make = lambda tasks: data.stream(
            data.meta_batch(draw, tasks), rows, lambda numbers: images[numbers]
        )
        steps = compare(make(8), 8, 4 if options.tiny else 64, options.repeats)
        sizes = read(make(32), options.tasks, 32)
    ratio = steps["grain"]["seconds"] / steps["resident"]["seconds"]
    growth = sizes[-1] - sizes[1]
    print(
        f"A step takes {ratio:.3f} of one on a resident batch; {growth / 1e6:.1f} MB more after {options.tasks} tasks."
    )
    rows = [{"implementation": name} | row for name, row in steps.items()]
    report = {
        "file_bytes": int(options.gigabytes * 1e9),
        "limit_bytes": int(options.limit * 1e9),
        "tasks": options.tasks,
    }
    report |= {"ratio": ratio, "held_bytes": sizes}
    harness.save(options.out, "feed", harness.header(("grain",), seed=0, **report, rows=rows))


if __name__ == "__main__":
    options = parser.parse_args()
    if options.tiny:
        options.gigabytes, options.tasks, options.repeats = 0.01, 320, 2
    main(options)
