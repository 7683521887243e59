"""What attributions predict, what they find, and what they cost.

Real digits (2 000 of MNIST's), and 50 intents of CLINC150 by frozen features of a sentence encoder.
The net has one hidden layer, and the training is 500 steps of Adam on minibatches.

- lds: the linear datamodelling score of 100 trainings that leave out 1 %, for the attribution, and
  beside it `implicit()` with three dampings, the dot products of gradients along the training times
  its step sizes (TracIn), the dot product at its end, and random scores. Intervals are over
  queries, which share the trainings.
- smoothness: the same score against batch size, `eps_root` and activation, with the metasmoothness
  of each training.
- labels: which per cent of the examples that rank highest has a wrong label, of 10 and 40 % wrong
  ones: by attribution to the loss of 1 000 clean examples, by the loss at the end and in the mean
  over the training, by the norm of the gradient, by the loss of a net that is trained on the clean
  examples alone, and by chance. One seed.
- cost: seconds and memory of the derivative behind `attribute` against those of one training, for
  several strategies and numbers of queries, steps and hidden units.
- peers: the same job in PyTorch, for one query and for sixteen, each in a process of its own, after
  the derivatives were compared. It needs `pip install 'metajax[peers]'`.

Writes benchmarks/results/attribution.json and .png.

METAJAX_DATA=folder python benchmarks/attribution.py
METAJAX_DATA=folder python benchmarks/attribution.py --parts lds --tiny --out /tmp/results
"""

import argparse
import functools
import itertools
import json
import math
import pathlib
import resource
import statistics
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import diagnostics

KEY = jax.random.key(0)
QUERIES = 50
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARTS = ("lds", "smoothness", "labels", "cost", "peers")
parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:4])
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--trainings", type=int, default=100)
parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

STRATEGIES = {
    "mixed_mode()": mj.mixed_mode(),
    "unroll()": mj.unroll(),
    "unroll(remat=2)": mj.unroll(remat=2),
}
ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh}


class Setting(NamedTuple):
    """How a net is trained.

    Attributes:
        batch: examples of a step.
        eps_root: of Adam.
        activation: of the hidden layer.
        hidden: units of the hidden layer.
        rate: step size, which decays to zero.
    """

    batch: int = 256
    eps_root: float = 1e-6
    activation: str = "gelu"
    hidden: int = 64
    rate: float = 1e-3


class Net(nnx.Module):
    """One hidden layer."""

    def __init__(self, inputs, outputs, setting, rngs):
        self.first = nnx.Linear(inputs, setting.hidden, rngs=rngs)
        self.last = nnx.Linear(setting.hidden, outputs, rngs=rngs)
        self.activation = ACTIVATIONS[setting.activation]

    def __call__(self, x):
        """[n, inputs] -> [n, outputs]."""
        return self.last(self.activation(self.first(x)))


class Problem(NamedTuple):
    """Examples to learn from, and others.

    Attributes:
        train: a `Batch`.
        test: a `Batch` of other examples, whose rows are the queries.
        classes: number of classes.
    """

    train: mj.Batch
    test: mj.Batch
    classes: int


def digits(number, others):
    """Written digits: so many to learn from, and so many others."""
    source = mj.data.written_digits()
    order = np.random.default_rng(0).permutation(len(source.y))[: number + others]
    x = np.asarray(source.x, np.float32).reshape(-1, 784)[order] / 255
    return divided(x, np.asarray(source.y)[order], number, 10)


def intents(number, others):
    """Sentence features of 50 intents."""
    texts, names = mj.data.clinc150_texts("train")
    order = np.random.default_rng(0).permutation(len(texts))
    known = sorted(set(names))[:50]
    chosen = [row for row in order if names[row] in known][: number + others]
    x = mj.nets.sentence_features([texts[row] for row in chosen])
    y = np.array([known.index(names[row]) for row in chosen])
    return divided(np.asarray(x, np.float32), y, number, len(known))


def divided(x, y, number, classes):
    """The first rows to learn from, and the others."""
    parts = [
        mj.Batch(jnp.asarray(x[rows]), jnp.asarray(y[rows], jnp.int32))
        for rows in (slice(number), slice(number, None))
    ]
    return Problem(*parts, classes)


PROBLEMS = {"digits": digits, "intents": intents}


def make_training(problem, setting, steps, strategy=None, path=False):
    """(adaptation, loss, params) of a net on a problem."""
    net = Net(problem.train.x.shape[1], problem.classes, setting, nnx.Rngs(0))
    apply, params = mj.nets.functional(net)
    loss = mj.losses.cross_entropy(apply)
    schedule = optax.cosine_decay_schedule(setting.rate, steps)
    adaptation = mj.inner_loop(
        loss,
        optax.adam(schedule, eps_root=setting.eps_root),
        steps=steps,
        sample=mj.inner.minibatch(setting.batch),
        differentiate=strategy or mj.mixed_mode(),
        path=path,
    )
    return adaptation, loss, params


def queries_of(problem, number):
    """The first test examples, each a query of its own."""
    return jax.tree.map(lambda leaf: leaf[:number, None], problem.test)


def path_of(problem, setting, steps):
    """(fast weights after every step, loss, params) of a training."""
    adaptation, loss, params = make_training(problem, setting, steps, mj.unroll(), path=True)
    adapted = jax.jit(adaptation.adapt)(params, problem.train, jax.random.split(KEY)[0])
    return adapted.fast, loss, params


def along_path(problem, setting, steps, queries, points):
    """Minus the dot products of the gradients of examples and queries, [queries, examples].

    They are times the step size, and summed over so many points of the training, the last included.
    """
    path, loss, params = path_of(problem, setting, steps)
    losses = losses_of_examples(problem, loss, params)

    @jax.jit
    def products(fast):
        def of_query(query):
            value = lambda fast: loss(params._replace(fast=fast), query, KEY)[0]
            return -jax.jvp(losses, (fast,), (jax.grad(value)(fast),))[1]

        return jax.lax.map(of_query, queries, batch_size=10)

    schedule = optax.cosine_decay_schedule(setting.rate, steps)
    found = 0.0
    for step in np.linspace(steps - 1, 0, points, dtype=int):
        fast = jax.tree.map(lambda leaf, step=step: leaf[step], path)
        found += float(schedule(step)) * products(fast)
    return found


def losses_of_examples(problem, loss, params):
    """(fast weights) -> the loss of each example to learn from, [examples]."""

    def losses(fast):
        one = lambda x, y: loss(params._replace(fast=fast), mj.Batch(x[None], y[None]), KEY)[0]
        return jax.vmap(one)(problem.train.x, problem.train.y)

    return losses


def damped(damping):
    """A solver of (H + damping I) x = b, for H is singular where a training ends."""

    def solver(product, b):
        more = lambda v: jax.tree.map(lambda one, other: one + damping * other, product(v), v)
        return mj.conjugate_gradient(steps=100)(more, b)

    return solver


def scores_of(problem, setting, steps, queries):
    """{method: [queries, examples]}."""

    def attributed(strategy):
        arguments = make_training(problem, setting, steps, strategy)
        found = diagnostics.attribute(
            *arguments, problem.train, queries, KEY, queries_at_once=10, smoothness_step=None
        )
        return found.examples

    found = {"attribute": attributed(mj.mixed_mode())}
    for damping in (0.01, 0.1, 1.0):
        strategy = mj.implicit(damped(damping), tolerance=math.inf)
        found[f"implicit(), damping {damping:g}"] = attributed(strategy)
    found["gradients along the training"] = along_path(problem, setting, steps, queries, 50)
    found["gradients at its end"] = along_path(problem, setting, steps, queries, 1)
    shape = (len(queries.y), len(problem.train.y))
    return found | {"random": jax.random.normal(jax.random.key(1), shape)}


def measure_lds(problem, setting, options):
    """{method: [mean, half its interval]} of the linear datamodelling score."""
    queries = queries_of(problem, options.queries)
    scores = scores_of(problem, setting, options.steps, queries)
    # The queries stand once for each method, so that all methods share the trainings.
    copies = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(scores)), queries)
    training = make_training(problem, setting, options.steps)
    removals = diagnostics.lds(
        *training,
        problem.train,
        copies,
        jnp.concatenate(list(scores.values())),
        KEY,
        trainings=options.trainings,
        at_once=10,
    )
    found = {}
    for name, correlations in zip(
        scores, np.split(removals.correlations, len(scores)), strict=True
    ):
        score = mj.summarize(correlations[~np.isnan(correlations)])
        found[name] = [float(score.mean), float(score.interval)]
        print(name, found[name], flush=True)
    return found


def lds(arguments, scores, options):
    """[mean, half its interval] of the score of these attributions."""
    score = diagnostics.lds(*arguments, scores, KEY, trainings=options.trainings, at_once=10).score
    return [float(score.mean), float(score.interval)]


def measure_smoothness(problem, options):
    """A row for each setting: its score, its metasmoothness and the accuracy of the net."""
    rows = []
    queries = queries_of(problem, options.queries)
    for batch, eps_root, activation in itertools.product(*options.grid):
        setting = Setting(batch, eps_root, activation)
        training = make_training(problem, setting, options.steps)
        found = diagnostics.attribute(*training, problem.train, queries, KEY, queries_at_once=10)
        few = argparse.Namespace(trainings=options.few)
        score = lds((*training, problem.train, queries), found.examples, few)
        adaptation, loss, params = training
        trained = jax.jit(adaptation.adapt)(params, problem.train, jax.random.split(KEY)[0])
        accuracy = jax.jit(loss)(trained, problem.test, KEY)[1]["accuracy"]
        row = setting._asdict() | {"lds": score, "smoothness": found.smoothness}
        rows.append(row | {"accuracy": 100 * float(accuracy)})
        print(rows[-1], flush=True)
    return rows


def measure_labels(problem, setting, steps, share):
    """Which per cent of the examples that rank highest has a wrong label, of as many as are wrong.

    Args:
        problem: with right labels.
        setting: of the net.
        steps: of the training.
        share: of wrong labels.
    """
    number = len(problem.train.y)
    rng = np.random.default_rng(1)
    wrong = rng.permutation(number)[: round(share * number)]
    y = np.asarray(problem.train.y).copy()
    y[wrong] = (y[wrong] + rng.integers(1, problem.classes, len(wrong))) % problem.classes
    noisy = problem._replace(train=problem.train._replace(y=jnp.asarray(y)))
    training = make_training(noisy, setting, steps)
    clean = jax.tree.map(lambda leaf: leaf[None], problem.test)
    found = diagnostics.attribute(*training, noisy.train, clean, KEY, smoothness_step=None)
    path, loss, params = path_of(noisy, setting, steps)
    losses = jax.jit(losses_of_examples(noisy, loss, params))
    at = lambda step, path=path: jax.tree.map(lambda leaf: leaf[step], path)
    points = np.linspace(0, steps - 1, min(steps, 50), dtype=int)
    gradients = jax.jit(jax.jacrev(losses))(at(-1))
    by_clean, _, _ = path_of(noisy._replace(train=problem.test), setting, steps)
    scores = {
        "attribute": found.examples[0],
        "loss": losses(at(-1)),
        "mean loss over the training": sum(losses(at(step)) for step in points),
        "norm of the gradient": jax.vmap(optax.tree.norm)(gradients),
        "loss by a net of the clean examples": losses(at(-1, by_clean)),
        "chance": jax.random.normal(KEY, (number,)),
    }
    row = {"wrong": share}
    for name, score in scores.items():
        highest = np.argsort(-np.asarray(score))[: len(wrong)]
        row[name] = 100 * float(np.isin(highest, wrong).mean())
    print(row, flush=True)
    return row


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


def build_ours(queries, steps, number, strategy):
    """In a process of its own: the attribution of digits, and its result with resident bytes."""
    problem = digits(number, 50)
    _, attribute, weight = make_job(problem, Setting(), queries, steps, STRATEGIES[strategy])
    program = jax.jit(attribute)
    found = np.asarray(program(weight))
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: program(weight), (found, resident)


def job_of(problem, queries, steps):
    """What benchmarks/torch_attribution.py needs to do the same."""
    setting = Setting()
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


def measure_peers(number, queries, steps, repeats):
    """Seconds and resident memory of the same attribution by each implementation."""
    import torch_attribution

    job = job_of(digits(number, 50), queries, steps)
    processes = {
        f"metajax, {strategy}": (build_ours, queries, steps, number, strategy)
        for strategy in STRATEGIES
    }
    for way in ("torch.func", "torch.autograd"):
        processes[way] = (torch_attribution.build, job, way)
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
        row = {"implementation": name, "queries": queries, "steps": steps}
        row["seconds"] = statistics.median(times)
        row["resident megabytes"] = resident / 1e6
        row["difference"] = harness.difference(found, reference)
        rows.append(row)
        print(row, flush=True)
    return rows


def draw(rows, path):
    """The score against metasmoothness, a point for each setting."""
    import matplotlib
    from matplotlib.figure import Figure

    marks = dict(zip(ACTIVATIONS, "os^", strict=True))
    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(7.5, 4.8))
        axis = figure.subplots()
        batches = sorted({row["batch"] for row in rows})
        for row in rows:
            axis.errorbar(
                row["smoothness"],
                row["lds"][0],
                yerr=row["lds"][1],
                marker=marks[row["activation"]],
                color=f"C{batches.index(row['batch'])}",
                markersize=4 + 2 * (row["eps_root"] >= 1e-8) + 2 * (row["eps_root"] >= 1e-6),
                linewidth=0.8,
            )
        for index, batch in enumerate(batches):
            axis.plot([], [], "o", color=f"C{index}", label=f"batch {batch}")
        for activation, mark in marks.items():
            axis.plot([], [], mark, color="0.4", label=activation)
        axis.legend(fontsize=8)
        axis.set_xlabel("metasmoothness (1: smooth); larger marks have a larger eps_root")
        axis.set_ylabel("linear datamodelling score")
        figure.savefig(path)


def main(options):
    options.queries, options.few, options.repeats = QUERIES, 30, 3
    options.grid = ((16, 64, 256), (1e-12, 1e-8, 1e-6), ("relu", "gelu", "tanh"))
    options.sizes = [
        *(("mixed_mode()", 64, queries, 500) for queries in (1, 4, 16, 64)),
        *(("mixed_mode()", 64, 1, steps) for steps in (125, 2000)),
        *(("mixed_mode()", hidden, 1, 500) for hidden in (16, 256)),
        *((strategy, 64, 1, 500) for strategy in STRATEGIES if strategy != "mixed_mode()"),
        *((strategy, 64, 1, 2000) for strategy in STRATEGIES if strategy != "mixed_mode()"),
        *((strategy, 64, 16, 500) for strategy in STRATEGIES if strategy != "mixed_mode()"),
    ]
    number, others = 2000, 1000
    if options.tiny:
        number, others = 100, 12
        options.steps, options.trainings, options.queries, options.few = 3, 3, 2, 3
        options.grid = ((8,), (1e-8,), ("relu", "tanh"))
        options.sizes, options.repeats = [("mixed_mode()", 4, 2, 3)], 1
    setting = Setting(batch=8, hidden=4) if options.tiny else Setting()
    path = options.out / "attribution.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    header = harness.header(seed=0, steps=options.steps, trainings=options.trainings)
    report |= header  # of the last part; each has its own
    problems = {}
    for name, make in PROBLEMS.items():
        problems[name] = functools.cache(functools.partial(make, number, others))

    def add(part, found):
        report[part] = {"header": header, "found": found}
        harness.save(options.out, "attribution", report)

    if "lds" in options.parts:
        add("lds", {name: measure_lds(make(), setting, options) for name, make in problems.items()})
    if "smoothness" in options.parts:
        rows = measure_smoothness(problems["digits"](), options)
        add("smoothness", rows)
        draw(rows, options.out / "attribution.png")
    if "labels" in options.parts:
        measure = lambda problem, share: measure_labels(problem, setting, options.steps, share)
        add(
            "labels",
            {
                name: [measure(make(), share) for share in (0.1, 0.4)]
                for name, make in problems.items()
            },
        )
    if "cost" in options.parts:
        rows = []
        for strategy, hidden, queries, steps in options.sizes:
            wider = setting._replace(hidden=hidden)
            arguments = (problems["digits"](), wider, strategy, queries, steps)
            rows.append(measure_cost(*arguments, options.repeats))
        add("cost", rows)
    if "peers" in options.parts:
        rows = []
        for queries in (2,) if options.tiny else (1, 16):
            rows += measure_peers(number, queries, options.steps, options.repeats)
        add("peers", rows)


if __name__ == "__main__":
    main(parser.parse_args())
