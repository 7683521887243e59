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
    """What a reader needs to know of a run; `packages` beside those of the core, where they are installed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    processor = next(
        (line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "commit": subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in (*PACKAGES, *packages)},
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "processor": processor.partition(":")[2].strip() or platform.machine(),
        "threads": len(os.sched_getaffinity(0)),
        **more,
    }


def version(package):
    """Its version, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compile_timed(function, *arguments):
    """The compiled program, and what it took: seconds of tracing and of compiling, temporary bytes."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    cost = {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}
    return program, cost | {"temporary_bytes": program.memory_analysis().temp_size_in_bytes}


def seconds(run):
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def in_turn(runs, repeats):
    """{name: seconds of each repeat} of {name: function}, after one call each that warms up."""
    for run in runs.values():
        jax.block_until_ready(run())
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


class Process:
    """`build(*arguments) -> (step, facts)` in a process of its own, whose steps are timed there when told.

    What fails, or takes longer than `limit` seconds, has no facts and takes ∞.
    """

    def __init__(self, build, *arguments):
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_serve, args=(other, build, *arguments), daemon=True)
        self.process.start()
        other.close()

    def facts(self, limit=None):
        """Waits for them; to be called once, first."""
        return self._receive(limit)

    def tell(self, steps=1):
        """To take so many steps, one after the other."""
        if self.process.is_alive():
            self.connection.send(steps)

    def seconds(self, limit=None):
        """Of a step, of those that it was told to take."""
        return (self._receive(limit) if self.process.is_alive() else None) or math.inf

    def _receive(self, limit):
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
        except EOFError:
            pass  # it has failed, and its error is above
        self.process.kill()
        self.process.join()
        return None


def close(*processes):
    """Ends them together, for those of one distributed computation wait for each other."""
    for one in processes:
        if one.process.is_alive():
            one.connection.send(0)
    for one in processes:
        one.process.join()


def _serve(connection, build, *arguments):
    step, facts = build(*arguments)
    connection.send(facts)
    while steps := connection.recv():
        connection.send(sum(seconds(step) for _ in range(steps)) / steps)


def median(times):
    """Median with a 95 % interval from the order of the times alone (of few, from the least to the largest)."""
    ordered, number = sorted(times), len(times)
    below = max(0, int(number / 2 - 0.98 * number**0.5))
    return {
        "seconds": statistics.median(times),
        "interval": [ordered[below], ordered[number - 1 - below]],
        "repeats": number,
    }


def difference(tree, reference):
    """|a - b| / |b| over all leaves."""
    norm = optax.tree.norm
    return float(norm(jax.tree.map(lambda a, b: a - b, tree, reference)) / norm(reference))


def save(folder, name, report):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def _lines(path):
    path = pathlib.Path(path)
    return path.read_text().splitlines() if path.exists() else []
