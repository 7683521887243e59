"""Kills a training run again and again, resumes it, and compares it with one that was left alone.

A process trains with `fit`, a checkpoint and a log. It is killed with SIGKILL at a random call of
the file system (`os.replace`, `os.rename`, `open`, `fsync`, ...), in the sampler or in `evaluate`,
or it gets SIGTERM or SIGINT at a random time. Then it is started again, until it ends. Its weights
must be those of a run without kills, bit for bit, and its log must have every record once, as
strict JSON.

    python benchmarks/kills.py --kills 100 --devices 1 4
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import harness

STEPS = 12
EVERY = 2

CHILD = '''
import json, os, random, signal, sys, threading
import numpy as np

folder, how, when, devices = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = flags + f" --xla_force_host_platform_device_count={devices}"
import jax, jax.numpy as jnp, optax
import metajax as mj

calls = 0
def count(event):
    """Kills this process at one of the events."""
    global calls
    if how == event:
        calls += 1
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    files = ("open", "os.rename", "os.replace", "os.remove", "os.mkdir", "os.rmdir", "os.listdir",
             "os.truncate", "shutil.rmtree")
    if event in files and any(folder in str(one) for one in arguments):
        count("file")

sys.addaudithook(hook)

def distance(params, target, key):
    return ((params.slow - target) ** 2).sum(), {}

targets = jax.random.normal(jax.random.key(1), (8, 64))
outer = mj.outer_loop(distance, optax.adam(0.1))
state = outer.init(mj.Params({}, jnp.ones(64)))
mesh = jax.make_mesh((devices,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
state, targets = jax.device_put((state, targets), everywhere)

def sample(targets, key):
    jax.debug.callback(lambda: count("sampler"))
    return jax.random.choice(key, targets, (4,))

def evaluate(params, key):
    if not isinstance(key, jax.core.Tracer):
        count("evaluate")
    return mj.evaluate(distance, params, targets, key)

signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in the background
if how in ("SIGTERM", "SIGINT"):
    timer = threading.Timer(when / 1000, os.kill, (os.getpid(), getattr(signal, how)))
    timer.daemon = True
    timer.start()
state, records = mj.training.fit(
    outer, state, sample, targets, jax.random.key(0), steps=STEPS, every=EVERY,
    checkpoint=folder + "/run", log=folder + "/log.jsonl", evaluate=evaluate, progress=False)
if int(state.step) == STEPS:
    np.save(folder + "/weights.npy", np.asarray(state.params.slow))
    print("done")
'''


def start(folder, how, when, devices):
    """Runs the child once; whether it ended by itself with all steps taken, and what it said."""
    code = CHILD.replace("STEPS", str(STEPS)).replace("EVERY", str(EVERY))
    command = [sys.executable, "-c", code, str(folder), how, str(when), str(devices)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "done", done.returncode, done.stderr


def check(folder, whole):
    """What is wrong with a run that has ended; "" if nothing is."""
    import numpy as np

    if not np.array_equal(np.load(folder / "weights.npy"), whole):
        return "other weights"

    def fail(text):
        raise ValueError(f"{text} is not JSON")

    try:
        lines = (folder / "log.jsonl").read_text().splitlines()
        steps = [json.loads(line, parse_constant=fail)["step"] for line in lines]
    except (ValueError, KeyError) as error:
        return f"a log that is not JSON: {error}"
    expected = set(range(EVERY, STEPS + 1, EVERY))
    if len(steps) != len(set(steps)):
        return f"records that are there twice: {steps}"
    return "" if expected <= set(steps) else f"records that are missing: {steps}"


def run(devices, kills, rng, whole):
    """Counts of kills and of what went wrong, over as many runs as it takes."""
    counts = {"kills": 0, "runs": 0, "failed": 0, "damaged": 0}
    by_kind = {}
    errors = []
    while counts["kills"] < kills:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="kills-"))
        counts["runs"] += 1
        for _ in range(40):
            how = rng.choice(["file", "file", "file", "sampler", "evaluate", "SIGTERM", "SIGINT"])
            when = {"file": rng.randint(1, 400), "sampler": rng.randint(1, 8)}.get(
                how, rng.randint(1, 4)
            )
            if how.startswith("SIG"):
                when = rng.randint(0, 1500)
            has_ended, code, text = start(folder, how, when, devices)
            if has_ended:
                break
            is_kill = code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 0)
            if not is_kill and "KeyboardInterrupt" not in text:
                errors.append(text[-2000:])
                counts["failed"] += 1
                break
            counts["kills"] += 1
            by_kind[how] = by_kind.get(how, 0) + 1
        else:
            has_ended, code, text = start(folder, "nothing", 0, devices)
        counts["damaged"] += len(list((folder / "run").glob("*.damaged")))
        wrong = check(folder, whole) if has_ended else "it did not end"
        if wrong:
            errors.append(wrong)
            counts["failed"] += 1
        shutil.rmtree(folder)
    return {"devices": devices, **counts, "kinds": by_kind, "errors": errors}


def main(options):
    import numpy as np

    rng = random.Random(options.seed)
    started = time.time()
    rows = []
    for devices in options.devices:
        with tempfile.TemporaryDirectory() as folder:
            has_ended, _, text = start(pathlib.Path(folder), "nothing", 0, devices)
            assert has_ended, text
            whole = np.load(f"{folder}/weights.npy")
        row = run(devices, options.kills, rng, whole)
        rows.append({"commit": harness.commit(), "seed": options.seed, **row})
        print(json.dumps(rows[-1]), flush=True)
    report = {"rows": rows, "seconds": time.time() - started}
    harness.save(options.out, "kills", harness.brief_header() | report)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--kills", type=int, default=100)
parser.add_argument("--devices", type=int, nargs="+", default=[1, 4])
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main(parser.parse_args())
