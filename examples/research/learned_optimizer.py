"""A learned optimizer, trained by persistent evolution strategies, against well tuned Adam.

The inner problem: an MLP learns ten letters from eight drawings each, in 200 steps on minibatches.
What counts is its loss on other drawings. The optimizer is learned on Latin letters. Adam and AdamW
are tuned on Armenian and Georgian ones: 13 rates x 3 schedules, for AdamW x 2 decays, once for the
mean loss over the steps and once for the loss after the last. All are tested on Greek and Cyrillic
letters, and on digits with a deeper net.

    python examples/research/learned_optimizer.py --out .

The script needs no file.
"""

import functools
import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

# The inner problem.
WAYS = 10
SHOTS = 8
QUERIES = 4  # of each class
BATCH = 20  # examples in a minibatch
INNER_STEPS = 200
LETTER_NET = (196, 32, WAYS)  # widths of the layers
DIGIT_NET = (64, 32, 32, WAYS)

# The outer problem.
FIRST_RATE = 2e-3  # before learning, the learned optimizer is Adam with this rate
OUTER_RATE = 5e-3
TRUNCATION = 20  # inner steps in an outer step
PAIRS = 16  # of problems, perturbed in opposite directions
STD = 0.03  # of the perturbations
FUSE = 10  # outer steps in one compiled call
TASKS_AT_ONCE = 32  # in a test

# What Adam and AdamW are tuned over.
RATES = jnp.logspace(-4, -1, 13)
DECAYS = {"Adam": (0.0,), "AdamW": (0.1, 1.0)}

parser = common.parser(__doc__, "learned_optimizer.json and learned_optimizer.png")
parser.add_argument("--steps", type=int, default=800, help="outer steps")
parser.add_argument(
    "--tasks", type=int, default=256, help="in each test; a quarter of them for tuning"
)
options = common.parse(parser)
if options.tiny:
    options.steps = 2
    options.tasks = 4
    INNER_STEPS = 10
    LETTER_NET = (196, 4, WAYS)
    DIGIT_NET = (64, 4, 4, WAYS)
    TRUNCATION = 5
    PAIRS = 2
    FUSE = 1
    TASKS_AT_ONCE = 1
    RATES = RATES[:2]
    DECAYS = {"Adam": (0.0,), "AdamW": (0.1,)}

SCHEDULES = {
    "constant": optax.constant_schedule(1.0),
    "cosine": optax.cosine_decay_schedule(1.0, INNER_STEPS),
    "warm-up and cosine": optax.warmup_cosine_decay_schedule(
        0.0, 1.0, INNER_STEPS // 10, INNER_STEPS
    ),
}
if options.tiny:
    SCHEDULES = {"cosine": SCHEDULES["cosine"]}
MEASURES = {
    "mean over steps": lambda curve: curve.mean(axis=-1),
    "last step": lambda curve: curve[..., -1],
}

key = jax.random.key(0)
began = time.perf_counter()


# The inner problem: its tasks, its net and its loss.
def halved(batch):
    """Images of 28 x 28 as vectors of 14 * 14."""
    blocks = batch.x.reshape(-1, 14, 2, 14, 2)
    return batch._replace(x=blocks.mean(axis=(2, 4)).reshape(-1, 196))


def letters(dataset, key):
    """A task of ten letters."""
    task = mj.data.episodes(WAYS, SHOTS, QUERIES)(dataset, key)
    return mj.Task(halved(task.support), halved(task.query))


def random_weights(key, widths):
    """Kernel and bias of every layer of an MLP."""
    shapes = list(itertools.pairwise(widths))
    keys = jax.random.split(key, len(shapes))
    layers = []
    for layer_key, (inputs, outputs) in zip(keys, shapes, strict=True):
        kernel = jax.random.normal(layer_key, (inputs, outputs)) * (2 / inputs) ** 0.5
        layers.append((kernel, jnp.zeros(outputs)))
    return layers


def loss(params, batch, key):
    """Cross-entropy of the MLP whose layers are `params.fast`."""
    *hidden, (last_kernel, last_bias) = params.fast
    x = batch.x
    for kernel, bias in hidden:
        x = jax.nn.relu(x @ kernel + bias)
    logits = x @ last_kernel + last_bias
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()
    return value, {"accuracy": (logits.argmax(axis=-1) == batch.y).mean()}


@functools.partial(jax.jit, static_argnums=(0, 3))
def curves(rule, weights, tasks, widths):
    """The query loss after every step, [tasks, steps], and the accuracy after the last, [tasks].

    Args:
        rule: the optimizer.
        weights: its parameters, `params.rule`.
        tasks: what it is run on, from a random start.
        widths: of the layers of the net.
    """
    descent = mj.inner_loop(
        loss,
        rule,
        steps=INNER_STEPS,
        differentiate=mj.first_order(),
        sample=mj.minibatch(BATCH),
        path=True,
    )

    def curve(params, task, key):
        def query_loss(fast):
            return loss(params._replace(fast=fast), task.query, key)

        params = params._replace(fast=random_weights(key, widths))
        path = descent.adapt(params, task.support, key).fast
        losses, metrics = jax.lax.map(query_loss, path)
        return losses.mean(), {"curve": losses, "accuracy": metrics["accuracy"][-1]}

    params = mj.Params((), (), weights)
    found = mj.evaluate(curve, params, tasks, key, tasks_at_once=TASKS_AT_ONCE)
    return found["curve"].per_task, found["accuracy"].per_task


@functools.cache
def adam(schedule, decay):
    """Adam or AdamW. The rate is in `params.rule`, so that one program serves all rates."""

    def optimizer(rate):
        return optax.adamw(lambda count: rate * SCHEDULES[schedule](count), weight_decay=decay)

    return mj.learned(optimizer, RATES[0])


# Data: scripts without a letter in common, and digits.
glyphs = mj.data.glyphs()
split = mj.data.split_scripts(
    glyphs, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
)
train = mj.data.select_part(glyphs, split, "train")
bunch = load_digits()
digits = mj.data.dataset((bunch.data / 16).astype("float32"), bunch.target)


def draw(sample, dataset, number, seed):
    return jax.jit(mj.data.meta_batch(sample, number))(dataset, jax.random.key(seed))


validation = draw(letters, mj.data.select_part(glyphs, split, "validation"), options.tasks // 4, 1)
tests = {
    "Greek and Cyrillic letters": (
        draw(letters, mj.data.select_part(glyphs, split, "test"), options.tasks, 2),
        LETTER_NET,
    ),
    "digits, a deeper net": (
        draw(mj.data.episodes(WAYS, SHOTS, QUERIES), digits, options.tasks, 3),
        DIGIT_NET,
    ),
}

# The learned optimizer.
learned = mj.learned_optimizer(FIRST_RATE)
outer = mj.persistent(
    learned,
    loss,
    optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(OUTER_RATE, options.steps)),
    ),
    horizon=INNER_STEPS,
    truncation=TRUNCATION,
    pairs=PAIRS,
    std=STD,
    start=lambda params, key: random_weights(key, LETTER_NET),
    sample=mj.minibatch(BATCH),
)
params = mj.Params(random_weights(key, LETTER_NET), (), learned.init(mj.Params((), ()), key))
sample = mj.data.meta_batch(letters, PAIRS)
state, records = mj.training.fit(
    outer,
    outer.init(params, sample(train, key), key),
    sample,
    train,
    key,
    steps=options.steps,
    fuse=FUSE,
    every=50,
)
training_seconds = records[-1]["seconds"]
print(f"Learned in {training_seconds:.0f} s.")

# Adam and AdamW: every rate, schedule and decay on the validation scripts.
validated = {}  # {(method, schedule, decay, rate): {measure: loss}}
for method, decays in DECAYS.items():
    for schedule, decay in itertools.product(SCHEDULES, decays):
        for rate in RATES:
            losses, _ = curves(adam(schedule, decay), rate, validation, LETTER_NET)
            curve = losses.mean(axis=0)
            validated[method, schedule, decay, float(rate)] = {
                measure: of(curve).item() for measure, of in MEASURES.items()
            }

tuned = {}  # {(method, measure): (schedule, decay, rate)}
for method, measure in itertools.product(DECAYS, MEASURES):
    mine = [setting for setting in validated if setting[0] == method]
    best = min(mine, key=lambda setting: validated[setting][measure])
    tuned[method, measure] = best[1:]
    print(f"{method}, tuned for the {measure}: {best[1:]}", flush=True)


def summary(column, values):
    """Mean and half the width of the 95 % interval over tasks, as two entries of a row."""
    found = mj.summarize(values)
    return {column: found.mean.item(), f"{column}_interval": found.interval.item()}


# The test. Every difference is paired by task, with the Adam that was tuned for this very measure.
rows = []
drawn = {}  # {tasks: {line of the picture: mean curve}}
for name, (tasks, widths) in tests.items():
    our_curves, our_accuracy = curves(learned, state.params.rule, tasks, widths)
    drawn[name] = {"learned": our_curves.mean(axis=0)}
    for measure, method in itertools.product(MEASURES, (*DECAYS, "learned")):
        row = {"tasks": name, "measure": measure, "method": method}
        losses = our_curves
        accuracy = our_accuracy
        if method != "learned":
            schedule, decay, rate = tuned[method, measure]
            losses, accuracy = curves(adam(schedule, decay), rate, tasks, widths)
            drawn[name][f"{method}, tuned for the {measure}"] = losses.mean(axis=0)
            row |= {"schedule": schedule, "decay": decay, "rate": rate}
        value = MEASURES[measure](losses)
        row |= summary("loss", value)
        row |= summary("accuracy", 100 * accuracy)
        row |= summary("learned_minus_this", MEASURES[measure](our_curves) - value)
        rows.append(row)
        print(f"{name}, {measure}, {method}:")
        for column in ("loss", "accuracy", "learned_minus_this"):
            interval = row[f"{column}_interval"]
            print(f"    {column:20s}{row[column]:8.3f} ± {interval:.3f}", flush=True)

report = {
    **common.header(),
    "seed": 0,
    "digest": split.digest,
    "tasks": options.tasks,
    "outer_steps": options.steps,
    "training_seconds": training_seconds,
    "seconds": time.perf_counter() - began,
    "rows": rows,
}
common.write_report(options.out / "learned_optimizer.json", report)

# The picture: tuning on the left, then the curves of the two tests.
figure, (left, *others) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for method, schedule, decay in dict.fromkeys(setting[:3] for setting in validated):
    settings = [(method, schedule, decay, float(rate)) for rate in RATES]
    losses = [validated[setting]["mean over steps"] for setting in settings]
    style = {0.0: "-", 0.1: "--", 1.0: ":"}[decay]
    color = f"C{list(SCHEDULES).index(schedule) + 1}"
    label = f"{method}, {schedule}"
    if decay:
        label += f", decay {decay:g}"
    left.plot(RATES, losses, style, color=color, label=label)
our_loss = curves(learned, state.params.rule, validation, LETTER_NET)[0].mean()
left.axhline(our_loss, color="C0", linewidth=2.5, label="learned")
left.set(
    xscale="log",
    ylim=(0.97 * float(our_loss), 2.4),
    xlabel="rate",
    ylabel=f"query loss, mean over {INNER_STEPS} steps",
    title="validation: Armenian and Georgian",
)
left.legend(fontsize=6.5)
for axis, (name, lines) in zip(others, drawn.items(), strict=True):
    for number, (label, line) in enumerate(lines.items()):
        width = 2.5 if label == "learned" else 1.2
        steps = range(1, INNER_STEPS + 1)
        axis.plot(steps, line, color=f"C{number}", linewidth=width, label=label)
    best = min(float(line.min()) for line in lines.values())
    axis.set(
        ylim=(0.95 * best, 2.4), xlabel="inner steps", ylabel="query loss", title=f"test: {name}"
    )
    axis.legend(fontsize=7)
figure.savefig(options.out / "learned_optimizer.png", dpi=100)
print(f"{report['seconds']:.0f} s in all; see learned_optimizer.png and .json in {options.out}.")
