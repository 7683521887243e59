"""How a step of training grows with tasks, shots, inner steps, width and length of a sequence.

The first four are MAML with a Conv4 of 32 channels on 28x28 images, 5-way 1-shot with 5 queries a
class, 8 tasks and 3 inner steps, and one of these numbers changes at a time. The length is that of
the texts of the transformer of `memory.py`, 2 layers of 64, under `mixed_mode()`. Where the work is
linear, seconds = a + b n is fitted; for width and length, where products and attention grow with
the square, a slope of logarithms. Writes benchmarks/results/growth.json and growth.png.

python benchmarks/growth.py
python benchmarks/growth.py --tiny --repeats 2 --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib

import harness
import jax_maml
import memory
import numpy as np
import workloads

import metajax as mj

AXES = {
    "tasks": (2, 4, 8, 16, 32),
    "shots": (1, 2, 4, 8, 16),
    "inner steps": (1, 2, 4, 8, 16),
    "width": (8, 16, 32, 64, 128),
    "sequence length": (64, 128, 256, 512, 1024),
}
TINY = {
    "tasks": (2, 4),
    "shots": (1, 2),
    "inner steps": (1, 2),
    "width": (4, 8),
    "sequence length": (8, 16),
}
POWER = ("width", "sequence length")
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--axes", nargs="+", choices=AXES, default=[*AXES], help="what grows")
parser.add_argument("--repeats", type=int, default=10)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def program(axis, number, tiny):
    """(function to run, its cost in memory and compilation)."""
    if axis == "sequence length":
        return transformer(number, tiny)
    base = {"tasks": 8, "shots": 1, "width": 4 if tiny else 32}
    if axis in base:
        base[axis] = number
    workload = workloads.images(**base, queries=5, size=16 if tiny else 28)
    workload = workload._replace(steps=number if axis == "inner steps" else 3)
    step, _, cost = jax_maml.build(workload)
    return step, cost


def transformer(length, tiny):
    """(function to run, its cost) of a transformer on sequences of this length."""
    sizes = memory.TINY if tiny else memory.Sizes(layers=2, width=64, steps=4)
    sizes = sizes._replace(length=length)
    gradient, weights = memory.meta_gradient(sizes, mj.mixed_mode(), block_remat=True)
    compiled, cost = harness.compile_timed(gradient, weights)
    return lambda: compiled(weights), cost


def measure(axis, numbers, tiny, repeats):
    """A row for each number."""
    runs = {}
    costs = {}
    for number in numbers:
        runs[number], costs[number] = program(axis, number, tiny)
    rows = []
    for number, times in harness.in_turn(runs, repeats).items():
        row = {"workload": axis, "number": number}
        row |= harness.median(times)
        row |= costs[number]
        megabytes = row["temporary_bytes"] / 1e6
        print(f"{axis} {number}: {row['seconds']:.4g} s, {megabytes:.3g} MB", flush=True)
        rows.append(row)
    return rows


def fit(axis, rows):
    """Fits a + b n or a nᵇ by least squares of the relative errors, and the largest residual."""
    n = np.array([row["number"] for row in rows], float)
    seconds = np.array([row["seconds"] for row in rows], float)
    if axis in POWER:
        b, log_a = np.polyfit(np.log(n), np.log(seconds), 1)
        a = np.exp(log_a)
    else:
        b, a = np.polyfit(n, seconds, 1, w=1 / seconds)
    fitted = predicted(axis, a, b, n)
    return {"a": a, "b": b, "residual": np.abs(seconds / fitted - 1).max()}


def predicted(axis, a, b, n):
    """Seconds by the fit."""
    return a * n**b if axis in POWER else a + b * n


def draw(report, path):
    """A panel for each axis, three in a row."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        lines = -(-len(report["fits"]) // 3)
        figure = Figure(figsize=(10, 3.2 * lines))
        panels = figure.subplots(lines, 3, squeeze=False)
        for axes in panels.flat[len(report["fits"]) :]:
            axes.axis("off")
        for axes, (axis, fitted) in zip(panels.flat, report["fits"].items(), strict=False):
            rows = [row for row in report["rows"] if row["workload"] == axis]
            draw_axis(axes, axis, rows, fitted["a"], fitted["b"])
        for axes in panels[:, 0]:
            axes.set_ylabel("seconds a step")
        figure.savefig(path)


def draw_axis(axes, axis, rows, a, b):
    """What was measured, and the fit."""
    from matplotlib import ticker

    numbers = [row["number"] for row in rows]
    axes.plot(numbers, [row["seconds"] for row in rows], "o")
    n = np.geomspace(numbers[0], numbers[-1], 50)
    fitted = f"grows as n^{b:.2f}" if axis in POWER else f"{1e3 * a:.0f} + {1e3 * b:.3g} n ms"
    axes.plot(n, predicted(axis, a, b, n), "-", color="0.6", zorder=0)
    axes.set(xscale="log", yscale="log", xlabel=f"n, {axis}", title=fitted)
    axes.set(xticks=numbers, xticklabels=numbers)
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:.2g}")
    axes.yaxis.minorticks_off()
    axes.grid()


def main(options):
    numbers = TINY if options.tiny else AXES
    rows = []
    fits = {}
    for axis in options.axes:
        mine = measure(axis, numbers[axis], options.tiny, options.repeats)
        fits[axis] = fit(axis, mine)
        rows += mine
    report = harness.header(seed=0, rows=rows, fits=fits)
    harness.save(options.out, "growth", report)
    draw(report, options.out / "growth.png")


if __name__ == "__main__":
    main(parser.parse_args())
