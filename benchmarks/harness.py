"""What the benchmarks of speed share: the machine, what is timed, and one form of result file."""

import importlib.metadata
import json
import math
import multiprocessing
import os
import pathlib
import platform
import statistics
import subprocess
import time

import jax
import optax

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def header(packages=(), **more):
    """What a reader needs to know about a run.

    Args:
        packages: names of packages whose versions are recorded besides those of the core.
        more: further entries of the result file.
    """
    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *packages):
        versions[package] = version(package)
    return {
        "commit": commit(),
        "versions": versions,
        "xla_flags": xla_flags(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "processor": processor(),
        "threads": len(os.sched_getaffinity(0)),
        **more,
    }


def brief_header():
    """The same in short, for benchmarks that measure accuracy and not speed."""
    return {
        "commit": commit(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "xla_flags": xla_flags(),
        "device": jax.devices()[0].device_kind,
        "threads": os.cpu_count(),
    }


def commit():
    """The commit of the working tree, which ends with "-dirty" where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def version(package):
    """The version of a package, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def xla_flags():
    """The flags that XLA was started with, those that metajax sets included."""
    return os.environ.get("XLA_FLAGS", "")


def processor():
    """The name of the processor."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def peak_resident():
    """The largest resident memory of this process so far, in bytes; NaN where it cannot be read.

    That of `getrusage` would include the process that started this one.
    """
    path = pathlib.Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return math.nan


def compile_timed(function, *arguments):
    """The compiled program, and its cost: seconds to trace and to compile, temporary bytes."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    cost = {
        "trace_seconds": traced - start,
        "compile_seconds": compiled - traced,
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }
    return program, cost


def seconds(run):
    """How long a function takes."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def in_turn(runs, repeats, time_one=seconds):
    """{name: seconds of each repeat} of {name: run}, after one run each to warm up.

    Args:
        runs: {name: what is run}, functions without arguments.
        repeats: number of timed runs of each.
        time_one: run -> its seconds.
    """
    for run in runs.values():
        time_one(run)
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(time_one(run))
    return times


class Process:
    """`build(*arguments) -> (step, facts)` in a process of its own, which times steps on demand.

    A process that fails, or that takes longer than `limit` seconds, has no facts and takes ∞.
    """

    def __init__(self, build, *arguments):
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_serve, args=(other, build, *arguments), daemon=True)
        self.process.start()
        other.close()

    def facts(self, limit=None):
        """Waits for the facts. Call it once, first."""
        return self._receive(limit)

    def tell(self, steps=1):
        """Asks for this many steps, one after the other."""
        if self.process.is_alive():
            self.connection.send(steps)

    def seconds(self, limit=None):
        """Seconds of one step, on average over the steps asked for."""
        received = self._receive(limit) if self.process.is_alive() else None
        return received or math.inf

    def _receive(self, limit):
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
        except EOFError:
            pass  # the process has failed, and has printed its error
        self.process.kill()
        self.process.join()
        return None


def close(*processes):
    """Ends processes together, because those of one distributed computation wait for each other."""
    for one in processes:
        if one.process.is_alive():
            one.connection.send(0)
    for one in processes:
        one.process.join()


def _serve(connection, build, *arguments):
    """Builds, sends the facts, and takes as many steps as it is asked for until that is 0."""
    step, facts = build(*arguments)
    connection.send(facts)
    while steps := connection.recv():
        total = sum(seconds(step) for _ in range(steps))
        connection.send(total / steps)


def median(times):
    """The median with a 95 % interval from the order of the times alone.

    With few times the interval goes from the smallest to the largest.
    """
    ordered = sorted(times)
    number = len(ordered)
    below = max(0, int(number / 2 - 0.98 * number**0.5))
    return {
        "seconds": statistics.median(times),
        "interval": [ordered[below], ordered[number - 1 - below]],
        "repeats": number,
    }


def difference(tree, reference):
    """|a - b| / |b| over all leaves."""
    gap = jax.tree.map(lambda a, b: a - b, tree, reference)
    return float(optax.tree.norm(gap) / optax.tree.norm(reference))


def save(folder, name, report):
    """Writes folder/name.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
