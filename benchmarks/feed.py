"""Tasks that grain reads from a file larger than the memory allowed, against tasks on the device.

Two figures: a step of W2 whose tasks come from `data.stream`, relative to one on a batch that stays
on the device, with runs interleaved; and the memory that the process itself uses while 10 000 tasks
are read, without the pages of the file. The file has random images of 28x28, and the process may
not use as much memory as the file is large. Writes benchmarks/results/feed.json.

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

EXAMPLES = 20  # of each class
PIECE = 100_000  # images that are written at once
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--gigabytes", type=float, default=6.0, help="size of the file")
parser.add_argument("--limit", type=float, default=5.0, help="gigabytes that the process may use")
parser.add_argument("--tasks", type=int, default=10_000)
parser.add_argument("--repeats", type=int, default=20)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def write_file(folder, gigabytes):
    """(file of images uint8[examples, 28, 28, 1], their labels)."""
    classes = int(gigabytes * 1e9 / 784 / EXAMPLES)
    examples = classes * EXAMPLES
    path = folder / "images.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (examples, 28, 28, 1))
    noise = np.random.default_rng(0).integers(0, 256, (PIECE, 28, 28, 1), np.uint8)
    for first in range(0, examples, PIECE):
        images[first : first + PIECE] = noise[: examples - first]
    images.flush()
    return path, np.arange(examples) // EXAMPLES


def memory_in_use():
    """Bytes of memory that are the process's own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def compare(feed, tasks, width, repeats):
    """Seconds of a step on tasks of the stream, and on resident ones."""
    apply, params = jax_maml.make_net(workloads.images(tasks, width).weights)
    loss = mj.losses.cross_entropy(apply)
    descent = mj.inner_loop(loss, optax.sgd(0.1), steps=5)
    outer = mj.outer_loop(mj.query_loss(descent, loss), optax.adam(1e-3))
    state = outer.init(params)
    key = jax.random.key(0)
    source = data.tasks_of(feed, key)
    resident = jax.device_put(next(source))

    @jax.jit
    def step(state, read, key):
        return outer.step(state, feed.finish(read, key), key)

    runs = {
        "resident": lambda: step(state, resident, key),
        "grain": lambda: step(state, next(source), key),
    }
    times = harness.in_turn(runs, repeats)
    return [{"implementation": name} | harness.median(values) for name, values in times.items()]


def read(feed, number, tasks):
    """Bytes of memory after each tenth of this many tasks."""
    source = data.tasks_of(feed, jax.random.key(1))
    tenth = -(-number // (10 * tasks))
    sizes = []
    for _ in range(10):
        for _ in range(tenth):
            next(source)
        sizes.append(memory_in_use())
    return sizes


def main(options):
    if options.tiny:
        options.gigabytes, options.tasks, options.repeats = 0.01, 320, 2
    with tempfile.TemporaryDirectory() as folder:
        path, labels = write_file(pathlib.Path(folder), options.gigabytes)
        limit = int(options.limit * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        images = np.load(path, mmap_mode="r")
        rows = data.dataset(np.arange(len(labels), dtype=np.int32), labels)
        draw = data.episodes(5, 1, 15)

        def make(tasks):
            sample = data.meta_batch(draw, tasks)
            return data.stream(sample, rows, lambda numbers: images[numbers], scale=255)

        width = 4 if options.tiny else 64
        steps = compare(make(8), 8, width, options.repeats)
        sizes = read(make(32), options.tasks, 32)
    resident, grain = (row["seconds"] for row in steps)
    ratio = grain / resident
    growth = (sizes[-1] - sizes[1]) / 1e6
    print(f"A step takes {ratio:.3f} of one on a resident batch.")
    print(f"The process uses {growth:.1f} MB more after {options.tasks} tasks.")
    report = {
        "file_bytes": int(options.gigabytes * 1e9),
        "limit_bytes": limit,
        "tasks": options.tasks,
        "ratio": ratio,
        "held_bytes": sizes,
    }
    harness.save(options.out, "feed", harness.header(("grain",), seed=0, **report, rows=steps))


if __name__ == "__main__":
    main(parser.parse_args())
