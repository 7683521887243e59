"""Meta-gradients of trainings of 100 to 10 000 steps: memory and time.

A net of two hidden layers learns a function by Adam on minibatches. The gradient of its last loss
by its start is taken by `training.replay`, and by `unroll()`, `unroll(remat=2)` and `mixed_mode()`
in one program, where that needs at most 8 GB. In "replay, streamed" each step asks for a new batch.
Each measurement has a process of its own, whose largest resident memory is reported. Writes
benchmarks/results/replay.json.

python benchmarks/replay.py
python benchmarks/replay.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import harness
import jax
import numpy as np
import optax
from flax import nnx

import metajax as mj

HIDDEN, ROWS, ALL_ROWS = 128, 64, 4096
MOST_BYTES = 8e9
KEY = jax.random.key(0)
IN_ONE_PROGRAM = {
    "unroll()": mj.unroll(),
    "unroll(remat=2)": mj.unroll(remat=2),
    "mixed_mode()": mj.mixed_mode(),
}
WAYS = ("replay", "replay, streamed", *IN_ONE_PROGRAM)
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--only", nargs=2, help="a way and a number of steps, in this process")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def batch(seed, rows):
    """Points of a sine."""
    x = np.random.default_rng(seed).uniform(-5, 5, (rows, 1)).astype(np.float32)
    return mj.Batch(x, np.sin(x))


def measure(way, steps):
    """The row of one way: the norm of the gradient, seconds without compilation, and memory."""
    net = mj.nets.MLP(1, (HIDDEN, HIDDEN), 1, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net)
    loss = mj.losses.squared_error(apply)
    adaptation = mj.inner_loop(
        loss,
        optax.adam(1e-3, eps_root=1e-8),
        steps=steps,
        sample=mj.inner.minibatch(ROWS),
        differentiate=IN_ONE_PROGRAM.get(way),
    )
    task = mj.Task(batch(0, ALL_ROWS), batch(1, ALL_ROWS))
    row = {"way": way, "steps": steps}
    if way in IN_ONE_PROGRAM:
        task_loss = mj.query_loss(adaptation, loss)
        gradient = jax.grad(lambda params: task_loss(params, task, KEY)[0])
        program, cost = harness.compile_timed(gradient, params)
        row["temporary_bytes"] = cost["temporary_bytes"]
        if cost["temporary_bytes"] > MOST_BYTES:
            return row
        run = lambda: program(params)
    else:
        streamed = way == "replay, streamed"
        support = (lambda step: batch(step, ROWS)) if streamed else task.support
        run = lambda: (
            mj.training.replay(adaptation, loss, params, support, task.query, KEY, fuse=10).gradient
        )
    started = time.perf_counter()
    found = jax.block_until_ready(run())
    row["seconds"] = time.perf_counter() - started
    row["norm"] = float(optax.tree.norm(found))
    row["resident_bytes"] = harness.peak_resident()
    return row


def main(options):
    if options.only:
        print(json.dumps(measure(options.only[0], int(options.only[1]))))
        return
    rows = []
    ways = (*WAYS[:2], "unroll(remat=2)") if options.tiny else WAYS
    for steps in (20,) if options.tiny else (100, 1000, 10_000):
        for way in ways:
            command = [sys.executable, __file__, "--only", way, str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    harness.save(options.out, "replay", harness.header(seed=0, rows=rows))


if __name__ == "__main__":
    main(parser.parse_args())
