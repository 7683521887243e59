"""What each way to differentiate an inner loop costs on a small net.

`memory.py` has a transformer, where memory matters. Writes benchmarks/results/differentiate.json
and .png.

- digits: 5-way 5-shot tasks from scikit-learn's digits, an MLP of 40 hidden units, 100 steps of SGD
  with momentum and proximity 1; meta-parameters are the start and a learned decay. Here biased
  strategies show their bias.
- steps: temporary memory of the same against the number of inner steps, 1 to 1 000.

python benchmarks/differentiate.py
python benchmarks/differentiate.py --tiny --repeats 1 --out /tmp/results    # to see that it runs
"""

import argparse
import math
import pathlib

import harness
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import metajax as mj

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

KEY = jax.random.key(0)


def make_tasks(number):
    """5-way 5-shot tasks of digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    dataset = mj.data.dataset((digits.data / 16).astype("float32"), digits.target)
    sample = mj.data.meta_batch(mj.data.episodes(ways=5, shots=5, queries=10), tasks=number)
    return sample(dataset, KEY)


def problem(steps):
    """(strategy -> task loss, params): an inner loop of this many steps."""
    apply, params = mj.nets.functional(mj.nets.MLP(64, (40,), 5, rngs=nnx.Rngs(0)))
    params = params._replace(slow={"decay": jnp.array(-3.0)})

    def without_decay(params, x):
        return apply(params._replace(slow={}), x)

    net, _ = mj.nets.from_function(without_decay)
    query_loss = mj.losses.cross_entropy(net)

    def inner_loss(params, batch, key):
        value, metrics = query_loss(params, batch, key)
        decay = jnp.exp(params.slow["decay"])
        return value + 0.5 * decay * optax.tree.norm(params.fast, squared=True), metrics

    def make(strategy):
        optimizer = optax.sgd(0.02, momentum=0.9)
        adaptation = mj.inner_loop(
            inner_loss, optimizer, steps=steps, proximity=1.0, differentiate=strategy
        )
        return mj.query_loss(adaptation, query_loss)

    return make, params


def digits(tasks, repeats):
    """{strategy: cost} of 100 steps."""
    neumann = mj.neumann(terms=20, rate=0.2)
    strategies = {
        "`unroll()`": mj.unroll(),
        "`unroll(remat=1)`": mj.unroll(remat=1),
        "`unroll(remat=2)`": mj.unroll(remat=2),
        "`mixed_mode()`": mj.mixed_mode(),
        "`implicit()`": mj.implicit(),
        "`implicit(neumann(terms=20, rate=0.2), tolerance=math.inf)`": mj.implicit(
            neumann, tolerance=math.inf
        ),
        "`truncated(20)`": mj.truncated(20),
        "`truncated(5)`": mj.truncated(5),
        "`one_step()`": mj.one_step(),
        "`one_step(difference=0.01)`": mj.one_step(difference=0.01),
        "`first_order()`": mj.first_order(),
    }
    make, params = problem(steps=100)
    return mj.estimate_cost(make, strategies, params, make_tasks(tasks), repeats=repeats)


def memory_of_steps(numbers):
    """Rows of temporary bytes against the number of steps, for one task."""
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
    tasks = make_tasks(1)
    rows = []
    for number in numbers:
        make, params = problem(number)
        possible = dict(strategies)
        if number < 5:
            del possible["truncated(5)"]
        for name, cost in mj.estimate_cost(make, possible, params, tasks).items():
            rows.append(
                {
                    "implementation": name,
                    "steps": number,
                    "temporary_bytes": cost.temporary_bytes,
                }
            )
    return rows


def draw(rows, path):
    """Memory against the number of inner steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["implementation"] for row in rows):
        mine = [row for row in rows if row["implementation"] == name]
        steps = [row["steps"] for row in mine]
        megabytes = [row["temporary_bytes"] / 1e6 for row in mine]
        style = "--" if name.startswith("mixed") else "-"  # some of these coincide with an unroll
        axes.loglog(steps, megabytes, style, marker="o", markersize=3, label=name)
    axes.set(xlabel="inner steps", ylabel="temporaries, MB")
    axes.set(title="MLP, 5-way 5-shot digits: a meta-gradient's memory")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(options):
    costs = digits(tasks=2 if options.tiny else 8, repeats=4 * options.repeats)
    print(mj.cost_table(costs), flush=True)
    rows = [{"implementation": name, **cost._asdict()} for name, cost in costs.items()]
    steps = memory_of_steps((1, 10) if options.tiny else (1, 3, 10, 30, 100, 300, 1000))
    harness.save(options.out, "differentiate", harness.header(seed=0, digits=rows, steps=steps))
    draw(steps, options.out / "differentiate.png")


if __name__ == "__main__":
    main(parser.parse_args())
