"""MAML in metajax, plain JAX, torch.func, higher and torchopt: seconds of a step of training.

All start from the same weights and see the same tasks, which are those of `workloads.py`. Each runs
in a process of its own. Their meta-gradients are compared before anything is timed, in float64 with
each other, and in float32 each with its own in float64. The runs are interleaved.

A peer counts at its best: each of its variants (`torch_peers.py`) is tried first, and the fastest
is kept. Peers that are not installed are named and left out: `pip install 'metajax[peers]'` has
them. What takes milliseconds is run several times a turn, and by metajax also as several steps in
one call. Writes benchmarks/results/peers-<workload>.json.

python benchmarks/peers.py
python benchmarks/peers.py --workloads W1 --peers torch.func
python benchmarks/peers.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import importlib.util
import math
import pathlib
import statistics

import harness
import jax
import workloads

TRIALS = 3  # runs of each variant of a peer, to find the fastest
PLAIN_REPEATS = 3  # runs of plain JAX, which takes long
PACKAGE = {"torch.func": "torch", "higher": "higher", "torchopt": "torchopt"}  # that a peer needs

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--workloads", nargs="+", default=["W1", "W2", "W2, 32 tasks"])
parser.add_argument("--peers", nargs="*", default=list(PACKAGE))
parser.add_argument(
    "--plain", action="store_true", help="plain JAX too, whose step of W2 takes 45 seconds"
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def build(implementation, workload, variant):
    """In a process of its own: the step, and the gradient and the cost of building."""
    if implementation in PACKAGE:
        import torch_peers

        step, gradient = torch_peers.PEERS[implementation](workload, **variant)
        return step, (gradient(), {})
    import jax_maml

    jax.config.update("jax_enable_x64", workloads.is_double(workload))
    jax.config.update("jax_num_cpu_devices", variant.get("devices", 1))
    step, gradient, cost = jax_maml.build(workload, **variant)
    return step, (gradient(), cost)


class Run(harness.Process):
    """One implementation in a process of its own."""

    def __init__(self, implementation, workload, variant, limit=None):
        super().__init__(build, implementation, workload, variant)
        self.name = implementation
        self.variant = variant
        self.gradient, self.cost = self.facts(limit) or (None, None)

    def seconds(self, limit=None, steps=1):
        """Seconds of one step, on average over this many."""
        fuse = self.variant.get("fuse", 1)
        self.tell(max(steps // fuse, 1))
        return super().seconds(limit) / fuse

    def describe(self):
        """The variant in words."""
        return ", ".join(f"{name}={value}" for name, value in self.variant.items())


def exact_gradient(run, workload):
    """The gradient of the same implementation in float64."""
    other = Run(run.name, workloads.double(workload), run.variant)
    harness.close(other)
    return other.gradient


def best(peer, workload, tiny):
    """The fastest variant of a peer, still running, or None if all fail.

    A variant that takes more than ten times the fastest so far is given up.
    """
    import torch_peers

    kept = None
    least = math.inf
    for variant in torch_peers.variants(peer, workload)[: 2 if tiny else None]:
        limit = None if kept is None else 30 + 10 * least
        run = Run(peer, workload, variant, limit)
        run.seconds(limit)  # warms up
        took = statistics.median(run.seconds(limit) for _ in range(TRIALS))
        print(f"  {peer}, {run.describe()}: {took:.4g} s", flush=True)
        if took < least:
            loser, kept, least = kept, run, took
        else:
            loser = run
        if loser is not None:
            harness.close(loser)
    return kept


def compare(name, workload, peers, plain, tiny):
    """Rows of one workload: ours first."""
    import jax_maml

    print(name, flush=True)
    # W1 has no convolution, and a step of plain JAX on 32 tasks takes minutes.
    ours = jax_maml.variants(workload, plain and name == "W2")
    tried = list(ours)[: 2 if tiny else None]
    runs = [Run(own, workload, ours[own]) for own in tried]
    kept = []
    for peer in peers:
        run = best(peer, workload, tiny)
        if run is None:
            print(f"  {peer} is left out because all of its variants failed, with the errors above")
        else:
            kept.append(peer)
            runs.append(run)
    exact = {run.name: exact_gradient(run, workload) for run in runs}
    times = take_turns(runs, workload)
    fastest = min((statistics.median(times[peer]) for peer in kept), default=None)
    rows = []
    for run in runs:
        row = {"workload": name, "implementation": run.name}
        row["variant"] = run.describe() if run.name in kept else ""
        row |= harness.median(times[run.name])
        row |= run.cost
        row["gradient_error"] = harness.difference(exact[run.name], exact[runs[0].name])
        row["rounding"] = harness.difference(run.gradient, exact[run.name])
        row["ratio"] = fastest and fastest / row["seconds"]
        report(row)
        rows.append(row)
        harness.close(run)
    return rows


def take_turns(runs, workload):
    """{implementation: seconds of each turn}."""
    for run in runs:
        run.seconds()
    times = {run.name: [] for run in runs}
    for repeat in range(workload.repeats):
        for run in runs:
            if run.name != "plain JAX" or repeat < PLAIN_REPEATS:
                times[run.name].append(run.seconds(steps=workload.steps_a_turn))
    return times


def report(row):
    """Prints one row."""
    speed = ""
    if row["ratio"] is not None:
        speed = f", {row['ratio']:.2f} times the speed of the fastest peer"
    took = f"{row['seconds']:.4g} s, gradient differs by {row['gradient_error']:.0e}"
    print(f"  {row['implementation']}: {took}{speed}", flush=True)


def installed(peers):
    """Those of the peers that there are, in the order of PACKAGE; prints what is left out."""
    for peer in sorted({*peers} - {*PACKAGE}):
        print(f"There is no peer {peer!r}; there are {', '.join(PACKAGE)}.")
    found = []
    for peer, package in PACKAGE.items():
        if peer in peers and importlib.util.find_spec(package):
            found.append(peer)
        elif peer in peers:
            remedy = "pip install 'metajax[peers]'"
            print(f"{peer} is left out because {package} is not installed: {remedy}.")
    return found


def main(options):
    sizes = workloads.TINY if options.tiny else workloads.WORKLOADS
    for name in sorted({*options.workloads} - {*sizes}):
        print(f"There is no workload {name!r}; there are {', '.join(sizes)}.")
    peers = installed(options.peers)
    for name in options.workloads:
        if name in sizes:
            rows = compare(name, sizes[name](), peers, options.plain, options.tiny)
            result = harness.header(("torch", "higher", "torchopt"), seed=0, rows=rows)
            file = name.lower().replace(", ", "-").replace(" ", "-")
            harness.save(options.out, f"peers-{file}", result)


if __name__ == "__main__":
    main(parser.parse_args())
