"""Damages checkpoints and data files at random, and counts what becomes of it.

A file is truncated, emptied, deleted, replaced by an empty folder or by another file, one of its
bits is flipped, or a block of it is set to zero. Then it is read, and the outcome is counted:

    right      the values of the whole file; for a checkpoint, the weights of a run left alone
    refused    a ValueError or OSError that names a file or folder
    other      another error, or one that names none
    unnoticed  other values that no reader can notice: the format has no checksum (text, bitmaps,
               photographs), or a whole and valid file took the place of another, or is not there
               in a folder that has no list of its files
    silent     other values, although the format has a checksum
    hang       it takes longer than SECONDS

    python benchmarks/damage.py
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import tempfile
import unittest.mock
import warnings

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

import metajax as mj

SECONDS = 60
KEY = jax.random.key(0)
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
"""Nobody listens there, so that a data file that is gone cannot be downloaded."""

OUTCOMES = ("right", "refused", "other", "unnoticed", "silent", "hang")
REASONS = {
    "table": "text has no checksum: another digit or name is as good",
    "bitmaps": "a bitmap has no checksum: another pixel is as good",
    "jpegs": "a photograph has no checksum: another coefficient is as good",
}
"""The formats without a checksum, which no reader can compare with what was written."""


def source():
    return mj.data.dataset(np.arange(24.0)[:, None], np.repeat(np.arange(4), 6))


def make_tasks(folder):
    for seed in (0, 1):
        key = jax.random.key(seed)
        mj.data.save_tasks(
            folder / f"{seed}.npz", mj.data.episodes(2, 1, 2), source(), key, tasks=9
        )


def read_tasks(folder):
    return mj.data.load_tasks(folder / "0.npz", source())


def make_split(folder):
    for seed in (0, 1):
        parts = {"train": ["a", "b"], "test": [f"c{seed}"]}
        mj.data.save_split(mj.data.class_split("some", parts), folder / f"{seed}.json")


def read_split(folder):
    split = mj.data.load_split(folder / "0.json")
    return np.array([split.name, *split.parts, *sum(split.parts.values(), ())])


def make_digits(folder):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez_compressed(folder / "mnist.npz", image=image, label=np.arange(20) % 10)
    np.savez_compressed(folder / "other.npz", a=np.arange(9))


def only_in(folder):
    """Lets data files be looked for in this folder only."""
    os.environ |= {"METAJAX_DATA": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}


def read_digits(folder):
    only_in(folder)
    digits = mj.data.written_digits()
    return digits.x, digits.y


def make_texts(folder):
    splits = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
    rows = {name: [[f"{name} text {n}", "oos"] for n in range(30)] for name in splits}
    with gzip.open(folder / "clinc150.json.gz", "wt") as file:
        json.dump(rows, file)
    (folder / "other.gz").write_bytes(gzip.compress(b"[]"))


def read_texts(folder):
    only_in(folder)
    return np.array(mj.data.clinc150_texts("oos_val"))


def pictures(ending):
    def make(folder):
        rng = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (folder / name).mkdir()
            for number in range(2):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.{ending}")

    return make


def read_pictures(folder):
    images = mj.data.image_folder(folder, size=16)
    return images.x, images.y


def make_table(folder):
    lines = ["kind,length", *(f"{kind},{n}.5" for kind in ("iris", "rose") for n in range(20))]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "other.csv").write_text("a,b\n1,2\n")


def read_table(folder):
    table = mj.data.table(folder / "table.csv", label="kind", numbers=["length"])
    return table.x, table.y, np.array(table.names)


def distance(params, target, key):
    return ((params.slow - target) ** 2).sum(), {}


def train(folder, steps):
    outer = mj.outer_loop(distance, optax.adam(0.1))
    state = outer.init(mj.Params({}, jnp.ones(64)))
    sample = lambda targets, key: jax.random.choice(key, targets, (4,))
    targets = jax.random.normal(jax.random.key(1), (8, 64))
    options = {"every": 2, "progress": False, "checkpoint": folder / "run"}
    return mj.training.fit(outer, state, sample, targets, KEY, steps=steps, **options)[0]


def make_checkpoint(folder):
    train(folder, 4)


def read_checkpoint(folder):
    return train(folder, 6).params


TARGETS = {
    "checkpoint": (make_checkpoint, read_checkpoint),
    "tasks": (make_tasks, read_tasks),
    "split": (make_split, read_split),
    "digits": (make_digits, read_digits),
    "texts": (make_texts, read_texts),
    "pngs": (pictures("png"), read_pictures),
    "bitmaps": (pictures("bmp"), read_pictures),
    "jpegs": (pictures("jpg"), read_pictures),
    "table": (make_table, read_table),
}


def truncate(file, others, rng):
    file.write_bytes(file.read_bytes()[: rng.randrange(max(1, file.stat().st_size))])


def flip(file, others, rng):
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def zero(file, others, rng):
    data = bytearray(file.read_bytes())
    first = rng.randrange(max(1, len(data)))
    last = min(len(data), first + 64)
    data[first:last] = bytes(last - first)
    file.write_bytes(data)


def empty(file, others, rng):
    file.write_bytes(b"")


def delete(file, others, rng):
    file.unlink()


def to_folder(file, others, rng):
    file.unlink()
    file.mkdir()


def swap(file, others, rng):
    other = rng.choice(others)
    one, two = file.read_bytes(), other.read_bytes()
    file.write_bytes(two)
    other.write_bytes(one)


DAMAGES = (truncate, flip, zero, empty, delete, to_folder, swap)


def outcome(read, folder, expected, can_be_noticed):
    """What becomes of a damaged folder, and the text of the error."""

    def stop(number, frame):
        raise TimeoutError("hang")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        found = read(folder)
    except TimeoutError:
        return "hang", ""
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        is_named = isinstance(error, ValueError | OSError) and str(folder) in text
        return ("refused" if is_named else "other"), text[:300]
    finally:
        signal.alarm(0)
    one, two = jax.tree.leaves(found), jax.tree.leaves(expected)
    is_same = len(one) == len(two) and all(map(np.array_equal, one, two))
    if is_same:
        return "right", ""
    return ("silent" if can_be_noticed else "unnoticed"), ""


def is_read(file):
    """Whether a reader opens this file. Others are there to be swapped with it.

    Of two checkpoints, that of step 4 is the newest, and is read first.
    """
    if file.parts[0] == "run":
        return file.parts[1] == "4"
    return file.name not in ("1.npz", "1.json", "other.npz", "other.gz", "other.csv")


def damage_target(name, number, rng):
    """Counts of the outcomes, and the cases that are neither right nor refused."""
    make, read = TARGETS[name]
    counts = collections.Counter()
    cases = []
    with tempfile.TemporaryDirectory(prefix="damage-") as top:
        whole = pathlib.Path(top, "whole")
        whole.mkdir()
        make(whole)
        expected = read(shutil.copytree(whole, pathlib.Path(top, "expected")))
        files = sorted(path for path in whole.rglob("*") if path.is_file())
        for _ in range(number):
            folder = pathlib.Path(shutil.copytree(whole, pathlib.Path(top, "damaged")))
            copies = [folder / file.relative_to(whole) for file in files]
            file = rng.choice([one for one in copies if is_read(one.relative_to(folder))])
            how = rng.choice(DAMAGES)
            how(file, [other for other in copies if other != file], rng)
            can_be_noticed = name not in REASONS and how not in (swap, delete)
            found, text = outcome(read, folder, expected, can_be_noticed or name == "checkpoint")
            counts[found] += 1
            if found not in ("right", "refused"):
                place = str(file.relative_to(folder))
                text = text.replace(top, "")
                cases.append(
                    {"damage": how.__name__, "file": place, "outcome": found, "text": text}
                )
            shutil.rmtree(folder)
    row = {"target": name, "number": number, **{one: counts[one] for one in OUTCOMES}}
    return {**row, "reason": REASONS.get(name, ""), "cases": cases}


def main(options):
    warnings.simplefilter("ignore")
    rng = random.Random(options.seed)
    number = 3 if options.tiny else options.number
    rows = []
    with unittest.mock.patch.dict(os.environ, NO_NETWORK):
        for name in options.targets:
            rows.append(damage_target(name, number, rng))
            print({key: value for key, value in rows[-1].items() if key != "cases"}, flush=True)
    harness.save(options.out, "damage", harness.header(seed=options.seed, rows=rows))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
parser.add_argument("--number", type=int, default=80, help="damages of each target")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

if __name__ == "__main__":
    main(parser.parse_args())
