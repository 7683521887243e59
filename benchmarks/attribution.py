"""What attributions predict, what they find, and what they cost.

Real digits (2 000 of MNIST's) by a small net, and intents (CLINC150) by a linear layer and a small
net over frozen features of a sentence encoder. The training is 500 steps of Adam on minibatches.

- lds: the linear datamodelling score of 100 trainings that leave out 1 %, for the attribution, and
  beside it `implicit()`, a sum of dot products of gradients along the training (TracIn), the dot
  product at its end, and random scores. Intervals are over queries.
- smoothness: the same score against batch size, `eps_root` and activation, with the metasmoothness
  of each training.
- labels: which share of the examples that rank highest has a wrong label, of 10 and 40 % wrong
  ones: by attribution to the loss of clean examples, by loss, and by norm of the gradient.
- cost: seconds and memory of attributions against those of one training, for several numbers of
  queries, steps and hidden units.

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
import time
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
PARTS = ("lds", "smoothness", "labels", "cost")
parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--trainings", type=int, default=100)
parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

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
    eps_root: float = 1e-8
    activation: str = "gelu"
    hidden: int = 64
    rate: float = 3e-3


class Net(nnx.Module):
    """One hidden layer, with logits divided by the root of its width."""

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
    """Sentence features of the intents of one half of CLINC150's domains."""
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


def along_path(problem, setting, steps, queries, points):
    """Minus the dot products of the gradients of examples and queries, summed over the training.

    At each of so many points of the training, counted from its end: [queries, examples].
    """
    adaptation, loss, params = make_training(problem, setting, steps, mj.unroll(), path=True)
    adapt_key, query_key = jax.random.split(KEY)
    path = jax.jit(adaptation.adapt)(params, problem.train, adapt_key).fast
    losses = losses_of_examples(problem, loss, params)

    @jax.jit
    def products(fast):
        def of_query(query):
            value = lambda fast: loss(params._replace(fast=fast), query, query_key)[0]
            return -jax.jvp(losses, (fast,), (jax.grad(value)(fast),))[1]

        return jax.lax.map(of_query, queries, batch_size=10)

    chosen = np.linspace(steps - 1, 0, points, dtype=int)
    at = lambda step: jax.tree.map(lambda leaf: leaf[step], path)
    return sum(products(at(step)) for step in chosen)


def losses_of_examples(problem, loss, params):
    """(fast weights) -> the loss of each example to learn from, [examples]."""

    def losses(fast):
        one = lambda x, y: loss(params._replace(fast=fast), mj.Batch(x[None], y[None]), KEY)[0]
        return jax.vmap(one)(problem.train.x, problem.train.y)

    return losses


def damped(product, b):
    """Solves (H + 0.1 I) x = b, because the training ends before a minimum, where H is singular."""
    more = lambda v: jax.tree.map(lambda one, other: one + 0.1 * other, product(v), v)
    return mj.conjugate_gradient(steps=100)(more, b)


def scores_of(problem, setting, steps, queries):
    """{method: [queries, examples]}."""

    def attributed(strategy):
        arguments = make_training(problem, setting, steps, strategy)
        found = diagnostics.attribute(
            *arguments, problem.train, queries, KEY, queries_at_once=10, smoothness_step=None
        )
        return found.examples

    shape = (len(queries.y), len(problem.train.y))
    return {
        "attribute": attributed(mj.mixed_mode()),
        "implicit()": attributed(mj.implicit(damped, tolerance=math.inf)),
        "gradients along the training": along_path(problem, setting, steps, queries, 10),
        "gradients at its end": along_path(problem, setting, steps, queries, 1),
        "random": jax.random.normal(jax.random.key(1), shape),
    }


def measure_lds(problem, setting, options):
    """{method: [mean, half its interval]} of the linear datamodelling score."""
    queries = queries_of(problem, options.queries)
    arguments = (*make_training(problem, setting, options.steps), problem.train, queries)
    found = {}
    for name, scores in scores_of(problem, setting, options.steps, queries).items():
        found[name] = lds(arguments, scores, options)
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
    adaptation, loss, params = training
    trained = jax.jit(adaptation.adapt)(params, noisy.train, jax.random.split(KEY)[0])
    losses = losses_of_examples(noisy, loss, params)
    gradients = jax.jit(jax.jacrev(losses))(trained.fast)
    norms = jax.vmap(optax.tree.norm)(gradients)
    scores = {
        "attribute": found.examples[0],
        "loss": jax.jit(losses)(trained.fast),
        "norm of the gradient": norms,
    }
    row = {"wrong": share}
    for name, score in scores.items():
        highest = np.argsort(-np.asarray(score))[: len(wrong)]
        row[name] = 100 * float(np.isin(highest, wrong).mean())
    print(row, flush=True)
    return row


def measure_cost(problem, setting, queries, steps, repeats):
    """What the attributions of so many queries cost, against one training."""
    adaptation, loss, params = make_training(problem, setting, steps)
    adapt_key, query_key = jax.random.split(KEY)
    batches = queries_of(problem, queries)

    def train(weight):
        return adaptation.adapt(params, problem.train._replace(weight=weight), adapt_key)

    def attribute(weight):
        trained, pull = jax.vjp(train, weight)
        slope = jax.grad(lambda trained, query: loss(trained, query, query_key)[0])
        return jax.vmap(lambda query: pull(slope(trained, query))[0])(batches)

    weight = jnp.ones(len(problem.train.y))
    programs, costs, taken = {}, {}, {}
    for name, run in (("training", train), ("attribution", attribute)):
        programs[name], costs[name] = harness.compile_timed(run, weight)
        jax.block_until_ready(programs[name](weight))
    for name, program in programs.items():
        started = time.perf_counter()
        for _ in range(repeats):
            jax.block_until_ready(program(weight))
        taken[name] = (time.perf_counter() - started) / repeats
    row = {
        "queries": queries,
        "steps": steps,
        "hidden": setting.hidden,
        "seconds of a training": taken["training"],
        "trainings": taken["attribution"] / taken["training"],
        "trainings per query": taken["attribution"] / taken["training"] / queries,
        "megabytes of a training": costs["training"]["temporary_bytes"] / 1e6,
        "megabytes": costs["attribution"]["temporary_bytes"] / 1e6,
    }
    print(row, flush=True)
    return row


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
        *((64, queries, 500) for queries in (1, 4, 16, 64)),
        *((64, 1, steps) for steps in (125, 2000)),
        *((hidden, 1, 500) for hidden in (16, 256)),
    ]
    number, others = 2000, 1000
    if options.tiny:
        number, others = 100, 12
        options.steps, options.trainings, options.queries, options.few = 3, 3, 2, 3
        options.grid = ((8,), (1e-8,), ("relu", "tanh"))
        options.sizes, options.repeats = [(4, 2, 3)], 1
    setting = Setting(batch=8, hidden=4) if options.tiny else Setting()
    path = options.out / "attribution.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report |= harness.header(seed=0, steps=options.steps, trainings=options.trainings)
    problems = {}
    for name, make in PROBLEMS.items():
        problems[name] = functools.cache(functools.partial(make, number, others))
    if "lds" in options.parts:
        report["lds"] = {
            name: measure_lds(make(), setting, options) for name, make in problems.items()
        }
    if "smoothness" in options.parts:
        report["smoothness"] = measure_smoothness(problems["digits"](), options)
        options.out.mkdir(parents=True, exist_ok=True)
        draw(report["smoothness"], options.out / "attribution.png")
    if "labels" in options.parts:
        report["labels"] = {
            name: [measure_labels(make(), setting, options.steps, share) for share in (0.1, 0.4)]
            for name, make in problems.items()
        }
    if "cost" in options.parts:
        report["cost"] = [
            measure_cost(
                problems["digits"](), setting._replace(hidden=hidden), *size, options.repeats
            )
            for hidden, *size in options.sizes
        ]
    harness.save(options.out, "attribution", report)


if __name__ == "__main__":
    main(parser.parse_args())
