"""What each way to differentiate an inner loop costs on a small net. Writes differentiate.json and .png.

`memory.py` has a transformer, where memory matters.

- digits: 5-way 5-shot tasks from scikit-learn's digits, an MLP of 40 hidden units, 100 steps of SGD with momentum and
  proximity 1; meta-parameters are the start and a learned decay. Here biased strategies show their bias.
- steps: temporary memory of the latter against the number of inner steps, 1 to 1 000.

    python benchmarks/differentiate.py
    python benchmarks/differentiate.py --tiny --repeats 1 --out /tmp/results    # a minute, to see that it runs
"""

import argparse
import math
import pathlib

import harness
import jax
import jax.numpy as jnp
import matplotlib
import optax
from flax import nnx

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)
options = parser.parse_args()

KEY = jax.random.key(0)


def digits_problem(steps, number):
    digits = load_digits()
    dataset = mj.data.dataset((digits.data / 16).astype("float32"), digits.target)
    tasks = mj.data.meta_batch(mj.data.episodes(ways=5, shots=5, queries=10), tasks=number)(
        dataset, KEY
    )
    apply, params = mj.nets.functional(mj.nets.MLP(64, (40,), 5, rngs=nnx.Rngs(0)))
    params = params._replace(slow={"decay": jnp.array(-3.0)})
    query_loss = mj.losses.cross_entropy(
        lambda params, *xs, **named: apply(params._replace(slow={}), *xs, **named)
    )

    def inner_loss(params, batch, key):
        value, metrics = query_loss(params, batch, key)
        return value + 0.5 * jnp.exp(params.slow["decay"]) * optax.tree.norm(
            params.fast, squared=True
        ), metrics

    def make(strategy):
        optimizer = optax.sgd(0.02, momentum=0.9)
        adaptation = mj.inner_loop(
            inner_loss, optimizer, steps=steps, proximity=1.0, differentiate=strategy
        )
        return mj.query_loss(adaptation, query_loss)

    return make, params, tasks


def digits():
    strategies = {
        "`unroll()`": mj.unroll(),
        "`unroll(remat=1)`": mj.unroll(remat=1),
        "`unroll(remat=2)`": mj.unroll(remat=2),
        "`mixed_mode()`": mj.mixed_mode(),
        "`implicit()`": mj.implicit(),
        "`implicit(neumann(terms=20, rate=0.2), tolerance=math.inf)`": mj.implicit(
            mj.neumann(terms=20, rate=0.2), tolerance=math.inf
        ),
        "`truncated(20)`": mj.truncated(20),
        "`truncated(5)`": mj.truncated(5),
        "`one_step()`": mj.one_step(),
        "`one_step(difference=0.01)`": mj.one_step(difference=0.01),
        "`first_order()`": mj.first_order(),
    }
    make, params, tasks = digits_problem(steps=100, number=2 if options.tiny else 8)
    return mj.estimate_cost(make, strategies, params, tasks, repeats=4 * options.repeats)


def steps():
    """Temporary bytes against the number of steps, one task."""
    strategies = {
        "unroll()": mj.unroll(),
        "unroll(remat=1)": mj.unroll(remat=1),
        "unroll(remat=2)": mj.unroll(remat=2),
        "unroll(remat=3)": mj.unroll(remat=3),
        "mixed_mode()": mj.mixed_mode(),
        "mixed_mode(remat=2)": mj.mixed_mode(remat=2),
        "truncated(5)": mj.truncated(5),
        "implicit()": mj.implicit(),
        "first_order()": mj.first_order(),
    }
    numbers = (1, 10) if options.tiny else (1, 3, 10, 30, 100, 300, 1000)
    rows = []
    for number in numbers:
        make, params, tasks = digits_problem(number, number=1)
        possible = {
            name: s for name, s in strategies.items() if number >= 5 or name != "truncated(5)"
        }
        for name, cost in mj.estimate_cost(make, possible, params, tasks).items():
            rows.append(
                {"steps": number, "implementation": name, "temporary_bytes": cost.temporary_bytes}
            )
    return rows


def draw(report, path):
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for name in dict.fromkeys(row["implementation"] for row in report["steps"]):
        points = [
            (r["steps"], r["temporary_bytes"] / 1e6)
            for r in report["steps"]
            if r["implementation"] == name
        ]
        style = "--" if name.startswith("mixed") else "-"  # some of these lie on an unroll
        axes.loglog(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
    axes.set(
        xlabel="inner steps",
        ylabel="temporaries, MB",
        title="MLP, 5-way 5-shot digits: a meta-gradient's memory",
    )
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


costs = digits()
print(mj.cost_table(costs), flush=True)
rows = [{"implementation": name, **cost._asdict()} for name, cost in costs.items()]
report = harness.header(seed=0, digits=rows, steps=steps())
harness.save(options.out, "differentiate", report)
draw(report, options.out / "differentiate.png")
