"""How a step of training grows with tasks, shots, inner steps, width and length of a sequence: seconds and memory.

The first four are MAML with a Conv4 of 32 channels on 28x28 images, 5-way 1-shot with 5 queries a class, 8 tasks and 3
inner steps, of which one number changes at a time; the length is that of the texts of the transformer of `memory.py`,
2 layers of 64, under `mixed_mode()`. Where the work is linear, seconds = a + b n is fitted; for width and length, where
products and attention grow with the square, it is a slope of logarithms. Writes benchmarks/results/growth.json and
growth.png.

    python benchmarks/growth.py
    python benchmarks/growth.py --tiny --repeats 2 --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib

import harness
import jax_maml
import matplotlib
import memory
import numpy as np
import workloads

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import ticker

AXES = {  # the numbers, and those of the tiny run
    "tasks": ((2, 4, 8, 16, 32), (2, 4)),
    "shots": ((1, 2, 4, 8, 16), (1, 2)),
    "inner steps": ((1, 2, 4, 8, 16), (1, 2)),
    "width": ((8, 16, 32, 64, 128), (4, 8)),
    "sequence length": ((64, 128, 256, 512, 1024), (8, 16)),
}
POWER = ("width", "sequence length")
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument(
    "--axes",
    nargs="+",
    choices=AXES,
    default=[*AXES],
    help="what grows; the file then has no other",
)
parser.add_argument("--repeats", type=int, default=10)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def program(axis, number, tiny):
    """(function to run, its cost in memory and compilation)."""
    if axis == "sequence length":
        sizes = memory.TINY if tiny else memory.Sizes(layers=2, width=64, steps=4)
        gradient, weights = memory.meta_gradient(
            sizes._replace(length=number), mj.mixed_mode(), True
        )
        compiled, cost = harness.compile_timed(gradient, weights)
        return lambda: compiled(weights), cost
    base = {"tasks": 8, "shots": 1, "width": 4 if tiny else 32}
    sizes = base | ({axis: number} if axis in base else {})
    workload = workloads.images(**sizes, queries=5, size=16 if tiny else 28)
    workload = workload._replace(steps=number if axis == "inner steps" else 3)
    step, _, cost = jax_maml.build(workload)
    return step, cost


def measure(axis, numbers, tiny, repeats):
    """A row for each number."""
    runs, costs = {}, {}
    for number in numbers:
        runs[number], costs[number] = program(axis, number, tiny)
    rows = []
    for number, times in harness.in_turn(runs, repeats).items():
        rows.append({"workload": axis, "number": number} | harness.median(times) | costs[number])
        print(
            f"{axis} {number}: {rows[-1]['seconds']:.4g} s, {costs[number]['temporary_bytes'] / 1e6:.3g} MB",
            flush=True,
        )
    return rows


def fit(axis, rows):
    """That is, a + b n or a nᵇ, by least squares of what is measured relative to the fit, and the largest residual."""
    n, seconds = (np.array([row[name] for row in rows], float) for name in ("number", "seconds"))
    if axis in POWER:
        b, a = np.polyfit(np.log(n), np.log(seconds), 1)
        fitted = np.exp(a) * n**b
        a = np.exp(a)
    else:
        b, a = np.polyfit(n, seconds, 1, w=1 / seconds)
        fitted = a + b * n
    return {"a": a, "b": b, "residual": np.abs(seconds / fitted - 1).max()}


def draw(report, path):
    number = len(report["fits"])
    figure, panels = plt.subplots(
        1, number, figsize=(3 * number, 3.4), layout="constrained", squeeze=False
    )
    for axes, (axis, fitted) in zip(panels[0], report["fits"].items(), strict=True):
        rows = [row for row in report["rows"] if row["workload"] == axis]
        numbers = [row["number"] for row in rows]
        axes.plot(numbers, [row["seconds"] for row in rows], "o", label="seconds")
        n = np.geomspace(numbers[0], numbers[-1], 50)
        a, b = fitted["a"], fitted["b"]
        label = f"grows as n^{b:.2f}" if axis in POWER else f"{1e3 * a:.0f} + {1e3 * b:.3g} n ms"
        axes.plot(n, a * n**b if axis in POWER else a + b * n, "-", color="grey", label=label)
        axes.set(
            xscale="log", yscale="log", xlabel=axis, title=axis, xticks=numbers, xticklabels=numbers
        )
        axes.xaxis.minorticks_off()
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.minorticks_off()
        axes.legend(fontsize=8)
    panels[0, 0].set(ylabel="seconds a step")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    options = parser.parse_args()
    rows, fits = [], {}
    for axis in options.axes:
        mine = measure(axis, AXES[axis][options.tiny], options.tiny, options.repeats)
        fits[axis] = fit(axis, mine)
        rows += mine
    report = harness.header(seed=0, rows=rows, fits=fits)
    harness.save(options.out, "growth", report)
    draw(report, options.out / "growth.png")
