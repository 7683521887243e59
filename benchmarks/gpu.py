"""Workload W4: what there is to know on a GPU, in one run that needs no network and no package but the core.

W2 with 32 tasks by lowering of the convolution and by tasks at once, W1, and W3 at width 512 and length 1 024 by
strategy; each in a process of its own, one after the other, with the peak of the device's memory. It runs on whatever
device JAX finds, and the result file bears its name. Writes benchmarks/results/device-<name>.json.

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
    step, gradient, cost = jax_maml.build(workload, **variant)
    return step, facts(gradient(), step, cost)


def transformer(sizes, name):
    gradient, weights = memory.meta_gradient(sizes, *memory.STRATEGIES[name])
    program, cost = harness.compile_timed(gradient, weights)
    step = lambda: program(weights)
    return step, facts({"weights": jax.device_get(step())}, step, cost)


def facts(gradient, step, cost):
    """The gradient, what compiling took, and the most memory that the device has had in use; None on a CPU."""
    jax.block_until_ready(step())
    statistics = jax.devices()[0].memory_stats() or {}
    return {
        "gradient": gradient,
        "cost": cost | {"peak_bytes": statistics.get("peak_bytes_in_use")},
    }


def measure(name, tasks, repeats):
    """Rows of {implementation: (build, *arguments)}; ratios and gradients are to the first that works."""
    rows, reference = [], None
    for implementation, arguments in tasks.items():
        process = harness.Process(*arguments)
        made = process.facts()
        if made is None:
            print(
                f"{name}, {implementation}: failed, and is left out; its error is above.",
                flush=True,
            )
            continue
        times = []
        for _ in range(repeats):
            process.tell()
            times.append(process.seconds())
        harness.close(process)
        row = (
            {"workload": name, "implementation": implementation}
            | harness.median(times)
            | made["cost"]
        )
        reference = made["gradient"] if reference is None else reference
        row["gradient_error"] = harness.difference(made["gradient"], reference)
        row["ratio"] = (rows or [row])[0]["seconds"] / row["seconds"]
        print(
            f"{name}, {implementation}: {row['seconds']:.4g} s, peak {row['peak_bytes']} bytes",
            flush=True,
        )
        rows.append(row)
    return rows


def main(options):
    sizes = workloads.TINY if options.tiny else workloads.WORKLOADS
    images, sinusoids = sizes["W2, 32 tasks"](), sizes["W1"]()
    convolutions = {
        f"{lower}, {at_once} at once": (maml, images, {"lower": lower, "tasks_at_once": at_once})
        for lower in jax_maml.LOWERINGS
        for at_once in ((images.tasks,) if options.tiny else (images.tasks // 4, images.tasks))
    }
    texts = memory.TINY if options.tiny else LARGE
    strategies = [*memory.STRATEGIES][:: 5 if options.tiny else 1]
    rows = measure("W1", {"metajax": (maml, sinusoids, {})}, options.repeats)
    rows += measure("W2, 32 tasks", convolutions, options.repeats)
    rows += measure(
        "W3, large", {name: (transformer, texts, name) for name in strategies}, options.repeats
    )
    device = re.sub(r"\W+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    harness.save(options.out, f"device-{device}", harness.header(seed=0, rows=rows))


if __name__ == "__main__":
    main(parser.parse_args())
