"""MAML in metajax, plain JAX, torch.func, higher and torchopt: seconds of a step of training, at the same gradient.

All start from the same weights and see the same tasks (`workloads.py` says which). Each runs in a process of its own;
their meta-gradients are compared before anything is timed, in float64 with each other and in float32 each with its own
in float64, and the runs are interleaved. A peer counts at its best: each of its variants (`torch_peers.py`) is tried
first, and the fastest is kept. Peers that are not installed are named and left out: `pip install 'metajax[peers]'` has
them. What takes milliseconds is run several times a turn, and by metajax also as so many steps in one call.
Writes benchmarks/results/peers-<workload>.json.

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

TRIALS = 3  # runs of each variant of a peer, to find its best
PACKAGE = {"torch.func": "torch", "higher": "higher", "torchopt": "torchopt"}  # that a peer needs

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--workloads", nargs="+", default=["W1", "W2", "W2, 32 tasks"])
parser.add_argument("--peers", nargs="*", default=list(PACKAGE))
parser.add_argument(
    "--plain",
    action="store_true",
    help="plain JAX too, a step of which takes three quarters of a minute in W2",
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def build(implementation, workload, variant):
    """The step, and the gradient and what the building took."""
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
    def __init__(self, implementation, workload, variant, limit=None):
        super().__init__(build, implementation, workload, variant)
        self.name, self.variant = implementation, variant
        self.gradient, self.cost = self.facts(limit) or (None, None)

    def seconds(self, limit=None, steps=1):
        """Of one of so many steps."""
        fuse = self.variant.get("fuse", 1)
        self.tell(max(steps // fuse, 1))
        return super().seconds(limit) / fuse


def exact_gradient(run, workload):
    """That of the same implementation in float64."""
    other = Run(run.name, workloads.double(workload), run.variant)
    harness.close(other)
    return other.gradient


def best(peer, workload, tiny):
    """The fastest variant of a peer, still running, or None if all fail.

    What takes more than ten times the fastest so far is given up.
    """
    import torch_peers

    kept, least = None, math.inf
    for variant in torch_peers.variants(peer, workload)[: 2 if tiny else None]:
        limit = None if kept is None else 30 + 10 * least
        run = Run(peer, workload, variant, limit)
        run.seconds(limit)  # warms up
        took = statistics.median(run.seconds(limit) for _ in range(TRIALS))
        print(f"  {peer}, {say(variant)}: {took:.4g} s", flush=True)
        loser, kept, least = (kept, run, took) if took < least else (run, kept, least)
        if loser is not None:
            harness.close(loser)
    return kept


def say(variant):
    return ", ".join(f"{name}={value}" for name, value in variant.items())


def compare(name, workload, peers, plain, tiny):
    """Rows of one workload: ours first."""
    import jax_maml

    print(name, flush=True)
    ours = jax_maml.variants(
        workload, plain and name == "W2"
    )  # W1 has no convolution, and 32 tasks take minutes
    runs = [Run(own, workload, variant) for own, variant in ours.items()]
    fit = {peer: best(peer, workload, tiny) for peer in peers}
    for peer in (peer for peer, run in fit.items() if run is None):
        print(f"  {peer} is left out, for all of its variants failed; their errors are above.")
    peers = [peer for peer, run in fit.items() if run is not None]
    runs += [fit[peer] for peer in peers]
    exact = {run.name: exact_gradient(run, workload) for run in runs}
    for run in runs:
        run.seconds()
    times = {run.name: [] for run in runs}
    for repeat in range(workload.repeats):
        for run in runs:
            if run.name != "plain JAX" or repeat < 3:
                times[run.name].append(run.seconds(steps=workload.steps_a_turn))
    fastest = min((statistics.median(times[peer]) for peer in peers), default=None)
    rows = []
    for run in runs:
        row = {
            "workload": name,
            "implementation": run.name,
            "variant": say(run.variant) if run.name in peers else "",
        }
        row |= harness.median(times[run.name]) | run.cost
        row["gradient_error"] = harness.difference(exact[run.name], exact[runs[0].name])
        row["rounding"] = harness.difference(run.gradient, exact[run.name])
        row["ratio"] = fastest and fastest / row["seconds"]
        speed = (
            "" if fastest is None else f", {row['ratio']:.2f} times the speed of the fastest peer"
        )
        print(
            f"  {run.name}: {row['seconds']:.4g} s, gradient differs by {row['gradient_error']:.0e}{speed}",
            flush=True,
        )
        rows.append(row)
        harness.close(run)
    return rows


def main(options):
    sizes = workloads.TINY if options.tiny else workloads.WORKLOADS
    for name in sorted({*options.workloads} - {*sizes}):
        print(f"There is no workload {name!r}; there are {', '.join(sizes)}.")
    for peer in sorted({*options.peers} - {*PACKAGE}):
        print(f"There is no peer {peer!r}; there are {', '.join(PACKAGE)}.")
    there = [
        peer
        for peer in PACKAGE
        if peer in options.peers and importlib.util.find_spec(PACKAGE[peer])
    ]
    for peer in PACKAGE:
        if peer in options.peers and peer not in there:
            print(
                f"{peer} is left out, for {PACKAGE[peer]} is not installed: pip install 'metajax[peers]'."
            )
    for name in options.workloads:
        if name in sizes:
            rows = compare(name, sizes[name](), there, options.plain, options.tiny)
            header = harness.header(("torch", "higher", "torchopt"), seed=0, rows=rows)
            harness.save(
                options.out, f"peers-{name.lower().replace(', ', '-').replace(' ', '-')}", header
            )


if __name__ == "__main__":
    main(parser.parse_args())
