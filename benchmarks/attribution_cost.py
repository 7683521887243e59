"""What attributions cost: seconds and memory against one training, and the same job in PyTorch.

The problem is that of benchmarks/attribution.py: 2 000 real digits, one hidden layer, steps of Adam
on minibatches. The derivative behind `diagnostics.attribute` is compiled and timed in turn with the
training, for several strategies and numbers of queries, steps and hidden units. The same job in
PyTorch (benchmarks/torch_attribution.py) runs in a process of its own, on the same minibatches,
after the derivatives were compared; without `pip install 'metajax[peers]'` it is left out. Writes
benchmarks/results/attribution_cost.json.

METAJAX_DATA=folder python benchmarks/attribution_cost.py
METAJAX_DATA=folder python benchmarks/attribution_cost.py --tiny --out /tmp/results
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import statistics

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from attribution import KEY, Setting, digits, make_training, queries_of

import metajax as mj

STRATEGIES = {
    "mixed_mode()": mj.mixed_mode(),
    "unroll()": mj.unroll(),
    "unroll(remat=2)": mj.unroll(remat=2),
}
PEERS = ("torch.func", "torch.autograd")
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--parts", nargs="+", choices=("cost", "peers"), default=("cost", "peers"))
parser.add_argument("--repeats", type=int, default=2)
parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def make_job(problem, setting, queries, steps, strategy):
    """(training, attribution, weights): functions of the weights of the examples, and ones."""
    adaptation, loss, params = make_training(problem, setting, steps, strategy)
    adapt_key, query_key = jax.random.split(KEY)
    batches = queries_of(problem, queries)

    def train(weight):
        return adaptation.adapt(params, problem.train._replace(weight=weight), adapt_key)

    def attribute(weight):
        trained, pull = jax.vjp(train, weight)
        slope = jax.grad(lambda trained, query: loss(trained, query, query_key)[0])
        return jax.vmap(lambda query: pull(slope(trained, query))[0])(batches)

    return train, attribute, jnp.ones(len(problem.train.y))


def measure_cost(problem, setting, strategy, queries, steps, repeats):
    """What the attributions of so many queries cost, against one training."""
    *functions, weight = make_job(problem, setting, queries, steps, STRATEGIES[strategy])
    runs, costs = {}, {}
    for name, function in zip(("training", "attribution"), functions, strict=True):
        program, costs[name] = harness.compile_timed(function, weight)
        runs[name] = functools.partial(program, weight)
    times = harness.in_turn(runs, repeats)
    taken = {name: statistics.median(seconds) for name, seconds in times.items()}
    trainings = taken["attribution"] / taken["training"]
    row = {
        "strategy": strategy,
        "queries": queries,
        "steps": steps,
        "hidden": setting.hidden,
        "seconds of a training": taken["training"],
        "trainings": trainings,
        "trainings per query": trainings / queries,
        "megabytes of a training": costs["training"]["temporary_bytes"] / 1e6,
        "megabytes": costs["attribution"]["temporary_bytes"] / 1e6,
    }
    print(row, flush=True)
    return row


def build_ours(problem, setting, queries, steps, strategy):
    """In a process of its own: the attribution of digits, and its result with resident bytes."""
    _, attribute, weight = make_job(problem, setting, queries, steps, STRATEGIES[strategy])
    program = jax.jit(attribute)
    found = np.asarray(program(weight))
    return lambda: program(weight), (found, harness.peak_resident())


def job_of(problem, setting, queries, steps):
    """What benchmarks/torch_attribution.py needs to do the same."""
    _, _, params = make_training(problem, setting, steps)
    number = len(problem.train.y)
    numbered = mj.Batch(jnp.arange(number), jnp.arange(number))
    draw = lambda key: mj.inner.minibatch(setting.batch)(numbered, jax.random.split(key)[0]).x
    rows = jax.vmap(draw)(jax.random.split(jax.random.split(KEY)[0], steps))
    schedule = optax.cosine_decay_schedule(setting.rate, steps)
    layers = params.fast
    start = [layers[layer][leaf] for layer in ("first", "last") for leaf in ("kernel", "bias")]
    job = {
        "x": problem.train.x,
        "y": problem.train.y,
        "rows": rows,
        "rates": jax.vmap(schedule)(jnp.arange(steps)),
        "start": start,
        "queries": (problem.test.x[:queries], problem.test.y[:queries]),
    }
    return jax.tree.map(np.asarray, job) | {"eps_root": setting.eps_root}


def measure_peers(problem, setting, queries, steps, repeats):
    """Seconds and resident memory of the same attribution by each implementation."""
    problem = jax.tree.map(np.asarray, problem)
    processes = {}
    for strategy in STRATEGIES:
        processes[f"metajax, {strategy}"] = build_ours, problem, setting, queries, steps, strategy
    if importlib.util.find_spec("torch"):
        import torch_attribution

        job = job_of(problem, setting, queries, steps)
        for way in PEERS:
            processes[way] = torch_attribution.build, job, way
    rows, reference = [], None
    for name, arguments in processes.items():
        process = harness.Process(*arguments)
        found, resident = process.facts()
        reference = found if reference is None else reference
        times = []
        for _ in range(repeats):
            process.tell()
            times.append(process.seconds())
        harness.close(process)
        row = {"implementation": name, "queries": queries, "seconds": statistics.median(times)}
        row["resident megabytes"] = resident / 1e6
        row["difference"] = harness.difference(found, reference)
        rows.append(row)
        print(row, flush=True)
    return rows


def main(options):
    number, steps, peer_queries = 2000, 500, (1, 16)
    others = [strategy for strategy in STRATEGIES if strategy != "mixed_mode()"]
    sizes = [
        *(("mixed_mode()", 64, queries, 500) for queries in (1, 4, 16)),
        *(("mixed_mode()", 64, 1, steps) for steps in (125, 2000)),
        *(("mixed_mode()", hidden, 1, 500) for hidden in (16, 256)),
        *((strategy, 64, 1, steps) for strategy in others for steps in (500, 2000)),
        *((strategy, 64, 16, 500) for strategy in others),
    ]
    setting = Setting()
    if options.tiny:
        number, steps, peer_queries = 100, 3, (2,)
        sizes = [("mixed_mode()", 4, 2, 3)]
        setting = Setting(batch=8)
    problem = digits(number, 100)
    path = options.out / "attribution_cost.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report |= harness.header(("torch",), seed=0, steps=steps)
    if "cost" in options.parts:
        report["cost"] = []
        warm_up = sizes[0]
        for strategy, hidden, queries, length in (warm_up, *sizes):
            wider = setting._replace(hidden=hidden)
            row = measure_cost(problem, wider, strategy, queries, length, options.repeats)
            report["cost"].append(row)
        report["cost"].pop(0)  # the first program of a process is slow
        harness.save(options.out, "attribution_cost", report)
    if "peers" in options.parts:
        report["peers"] = []
        for queries in peer_queries:
            report["peers"] += measure_peers(problem, setting, queries, steps, options.repeats)
        harness.save(options.out, "attribution_cost", report)


if __name__ == "__main__":
    main(parser.parse_args())
