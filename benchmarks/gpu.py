"""Workload W4: all that is to be measured on a GPU, in one run.

It needs no network and no package besides those of the core. W2 with 32 tasks by lowering of the
convolution and by tasks at once, W1, and W3 at width 512 and length 1 024 by strategy; each in a
process of its own, one after the other, with the peak of the device's memory. It runs on whatever
device JAX finds, whose name is in that of the result file, benchmarks/results/device-<name>.json.

python benchmarks/gpu.py
python benchmarks/gpu.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib
import re

import harness
import jax
import jax_maml
import memory
import workloads

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--repeats", type=int, default=20)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

LARGE = memory.Sizes(width=512, length=1024, heads=8)


def maml(workload, variant):
    """Builds a step of W1 or W2, in a process of its own."""
    step, gradient, cost = jax_maml.build(workload, **variant)
    return step, facts(gradient(), step, cost)


def transformer(sizes, name):
    """Builds a meta-gradient of W3, in a process of its own."""
    gradient, weights = memory.meta_gradient(sizes, *memory.STRATEGIES[name])
    program, cost = harness.compile_timed(gradient, weights)
    step = lambda: program(weights)
    return step, facts({"weights": jax.device_get(step())}, step, cost)


def facts(gradient, step, cost):
    """The gradient and the cost, with the peak of the device's memory; that is None on a CPU."""
    jax.block_until_ready(step())
    statistics = jax.devices()[0].memory_stats() or {}
    cost["peak_bytes"] = statistics.get("peak_bytes_in_use")
    return {"gradient": gradient, "cost": cost}


def measure(name, builds, repeats):
    """Rows of {implementation: (build, *arguments)}.

    Ratios and gradients are compared with the first implementation that works.
    """
    rows = []
    reference = None
    for implementation, arguments in builds.items():
        process = harness.Process(*arguments)
        made = process.facts()
        if made is None:
            print(f"{name}, {implementation}: failed with the error above, left out", flush=True)
            continue
        times = []
        for _ in range(repeats):
            process.tell()
            times.append(process.seconds())
        harness.close(process)
        row = {"workload": name, "implementation": implementation}
        row |= harness.median(times)
        row |= made["cost"]
        if reference is None:
            reference = made["gradient"]
        row["gradient_error"] = harness.difference(made["gradient"], reference)
        first = rows[0] if rows else row
        row["ratio"] = first["seconds"] / row["seconds"]
        took = f"{row['seconds']:.4g} s, peak {row['peak_bytes']} bytes"
        print(f"{name}, {implementation}: {took}", flush=True)
        rows.append(row)
    return rows


def convolutions(images, tiny):
    """Every lowering, with all tasks at once and with a quarter of them."""
    numbers = [images.tasks] if tiny else [images.tasks // 4, images.tasks]
    builds = {}
    for lower in list(jax_maml.LOWERINGS)[: 1 if tiny else None]:
        for number in numbers:
            variant = {"lower": lower, "tasks_at_once": number}
            builds[f"{lower}, {number} at once"] = (maml, images, variant)
    return builds


def main(options):
    sizes = workloads.TINY if options.tiny else workloads.WORKLOADS
    texts = memory.TINY if options.tiny else LARGE
    strategies = list(memory.STRATEGIES)[: 1 if options.tiny else None]
    builds = {
        "W1": {"metajax": (maml, sizes["W1"](), {})},
        "W2, 32 tasks": convolutions(sizes["W2, 32 tasks"](), options.tiny),
        "W3, large": {name: (transformer, texts, name) for name in strategies},
    }
    rows = []
    for name, mine in builds.items():
        rows += measure(name, mine, options.repeats)
    device = re.sub(r"\W+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    harness.save(options.out, f"device-{device}", harness.header(seed=0, rows=rows))


if __name__ == "__main__":
    main(parser.parse_args())
