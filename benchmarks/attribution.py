"""What attributions predict, and what they find.

Real digits (2 000 of MNIST's), and 50 intents of CLINC150 by frozen features of a sentence encoder.
The net has one hidden layer, and the training is 500 steps of Adam on minibatches.

- lds: the linear datamodelling score of 100 trainings that leave out 1 %, for the attribution, and
  beside it `implicit()` with three dampings, the dot products of gradients along the training times
  its step sizes (TracIn), the dot product at its end, and random scores. Intervals are over
  queries, which share the trainings.
- smoothness: the same score against batch size, `eps_root` and activation, with the metasmoothness
  of each training.
- changes: the same where one choice of the training is another: its step size, logits that are
  scaled, a normalised hidden layer, a small convolution with its largest or its mean values pooled
  (of 20 queries). Rows are kept by name, so that `--changes` may add some.
- labels: which per cent of the examples that rank highest has a wrong label, of 10 and 40 % wrong
  ones: by attribution to the loss of 1 000 clean examples, by the loss at the end and in the mean
  over the training, by the norm of the gradient, by the weights that `bilevel` learns on the clean
  examples, by the loss of a net that is trained on them alone, and by chance. One seed.

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
PARTS = ("lds", "smoothness", "changes", "labels")
parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
parser.add_argument("--changes", nargs="+", default=None, help="names of changes; all by default")
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
        scale: what the logits are multiplied by.
        norm: whether the hidden layer is normalised.
        pool: "max" or "mean" for a convolution in place of the hidden layer; "" for none.
    """

    batch: int = 256
    eps_root: float = 1e-6
    activation: str = "gelu"
    hidden: int = 64
    rate: float = 1e-3
    scale: float = 1.0
    norm: bool = False
    pool: str = ""


CHANGES = {
    "none": {},
    "step size 3e-4": {"rate": 3e-4},
    "step size 3e-3": {"rate": 3e-3},
    "step size 1e-2": {"rate": 1e-2},
    "logits times 0.1": {"scale": 0.1},
    "layer normalisation": {"norm": True},
    "convolution, mean-pooled": {"pool": "mean"},
    "convolution, max-pooled": {"pool": "max"},
}


class Net(nnx.Module):
    """One hidden layer, or for images a convolution that is pooled in squares of 2 x 2."""

    def __init__(self, inputs, outputs, setting, rngs):
        hidden = setting.hidden
        if setting.pool:
            hidden = 7 * 7 * 4
            self.first = mj.nets.Conv(1, 4, stride=2, rngs=rngs)
        else:
            self.first = nnx.Linear(inputs, hidden, rngs=rngs)
        self.last = nnx.Linear(hidden, outputs, rngs=rngs)
        self.norm = nnx.LayerNorm(hidden, rngs=rngs) if setting.norm else None
        self.activation = ACTIVATIONS[setting.activation]
        self.scale = setting.scale
        self.pool = setting.pool

    def __call__(self, x):
        """[n, inputs] -> [n, outputs]."""
        if self.pool:
            hidden = self.first(x.reshape(-1, 28, 28, 1)).reshape(-1, 7, 2, 7, 2, 4)
            pooled = hidden.max((2, 4)) if self.pool == "max" else hidden.mean((2, 4))
            hidden = pooled.reshape(len(x), -1)
        else:
            hidden = self.first(x)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.scale * self.last(self.activation(hidden))


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


def measure_smoothness(problem, setting, options):
    """The score of a setting, its metasmoothness and the accuracy of the net."""
    queries = queries_of(problem, min(options.queries, 20) if setting.pool else options.queries)
    training = make_training(problem, setting, options.steps)
    found = diagnostics.attribute(*training, problem.train, queries, KEY, queries_at_once=10)
    removals = diagnostics.lds(
        *training,
        problem.train,
        queries,
        found.examples,
        KEY,
        trainings=options.few,
        at_once=10,
    )
    adaptation, loss, params = training
    trained = jax.jit(adaptation.adapt)(params, problem.train, jax.random.split(KEY)[0])
    accuracy = jax.jit(loss)(trained, problem.test, KEY)[1]["accuracy"]
    row = {
        "lds": [float(removals.score.mean), float(removals.score.interval)],
        "smoothness": found.smoothness,
        "accuracy": 100 * float(accuracy),
    }
    print(setting, row, flush=True)
    return setting._asdict() | row


def learned_weights(problem, setting, outer_steps):
    """Logits of the weights of the examples, learned on the test examples by `bilevel`.

    The last column of x has the number of the example. Each outer step goes on from the weights of
    the net where the last one ended, by 20 steps.
    """
    _, loss, params = make_training(problem, setting, 1)
    number = len(problem.train.y)

    def weighted(params, batch, key):
        weight = jax.nn.sigmoid(params.slow["logits"][batch.x[:, -1].astype(jnp.int32)])
        return loss(params, mj.Batch(batch.x[:, :-1], batch.y, weight), key)

    adaptation = mj.inner_loop(
        weighted,
        optax.adam(setting.rate, eps_root=setting.eps_root),
        steps=20,
        sample=mj.inner.minibatch(setting.batch),
        differentiate=mj.mixed_mode(),
    )
    numbers = jnp.arange(number, dtype=jnp.float32)[:, None]
    numbered = problem.train._replace(x=jnp.concatenate([problem.train.x, numbers], axis=1))
    outer = mj.bilevel(adaptation, loss, optax.adam(0.1))
    one = jax.tree.map(lambda leaf: leaf[None], mj.Task(numbered, problem.test))
    state = outer.init(params._replace(slow={"logits": jnp.zeros(number)}))
    draw = lambda tasks, key: tasks
    state, _ = mj.training.scan(outer, state, draw, one, KEY, steps=outer_steps)
    return state.params.slow["logits"]


def measure_labels(problem, setting, steps, share, outer_steps):
    """Which per cent of the examples that rank highest has a wrong label, of as many as are wrong.

    Args:
        problem: with right labels.
        setting: of the net.
        steps: of the training.
        share: of wrong labels.
        outer_steps: of `bilevel`.
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
        "weights of bilevel": -learned_weights(noisy, setting, outer_steps),
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
    options.queries, options.few = QUERIES, 30
    options.grid = ((16, 64, 256), (1e-12, 1e-8, 1e-6), ("relu", "gelu", "tanh"))
    number, others = 2000, 1000
    if options.tiny:
        number, others = 100, 12
        options.steps, options.trainings, options.queries, options.few = 3, 3, 2, 3
        options.grid = ((8,), (1e-8,), ("relu", "tanh"))
        for name in [*CHANGES][1:-1]:
            CHANGES.pop(name)
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
        settings = [
            Setting(batch, eps_root, activation)
            for batch, eps_root, activation in itertools.product(*options.grid)
        ]
        measure = functools.partial(measure_smoothness, problems["digits"](), options=options)
        rows = [measure(setting) for setting in settings]
        add("smoothness", rows)
        draw(rows, options.out / "attribution.png")
    if "changes" in options.parts:
        rows = {row["change"]: row for row in report.get("changes", {"found": []})["found"]}
        for name in options.changes or CHANGES:
            changed = setting._replace(**CHANGES[name])
            row = measure_smoothness(problems["digits"](), changed, options)
            rows[name] = {"change": name} | row
            add("changes", [rows[name] for name in CHANGES if name in rows])
    if "labels" in options.parts:
        outer_steps = 3 if options.tiny else 50
        found = {}
        for name, make in problems.items():
            arguments = (make(), setting, options.steps)
            found[name] = [measure_labels(*arguments, share, outer_steps) for share in (0.1, 0.4)]
        add("labels", found)


if __name__ == "__main__":
    main(parser.parse_args())
