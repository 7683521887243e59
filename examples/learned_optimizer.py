"""A learned optimizer, trained by persistent evolution strategies, against Adam with a tuned rate and schedule.

The inner problem: an MLP learns ten letters from eight drawings each in 200 steps on minibatches; what counts is its
loss on other drawings. The optimizer is learned on Latin letters. Adam and AdamW are tuned on Armenian and Georgian
ones: 13 rates x 3 schedules, for AdamW x 2 decays, once for the mean loss over the steps and once for the last.
All are judged on Greek and Cyrillic letters, and on digits with a deeper net.

    python examples/learned_optimizer.py

It needs no file. Writes benchmarks/results/learned_optimizer.json and learned_optimizer.png.
"""

import argparse
import functools
import itertools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib
import optax
from sklearn.datasets import load_digits

import metajax as mj

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=800, help="outer steps")
parser.add_argument(
    "--tasks", type=int, default=256, help="in each test; a quarter of them for tuning"
)
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
)
options = parser.parse_args()

WAYS, SHOTS, QUERIES, BATCH, INNER_STEPS, PAIRS = 10, 8, 4, 20, 200, 16
RATES = jnp.logspace(-4, -1, 13)
SCHEDULES = {
    "constant": optax.constant_schedule(1.0),
    "cosine": optax.cosine_decay_schedule(1.0, INNER_STEPS),
    "warm-up and cosine": optax.warmup_cosine_decay_schedule(
        0.0, 1.0, INNER_STEPS // 10, INNER_STEPS
    ),
}
DECAYS = {"Adam": (0.0,), "AdamW": (0.1, 1.0)}
MEASURES = {
    "mean over steps": lambda curve: curve.mean(axis=-1),
    "last step": lambda curve: curve[..., -1],
}
KEY, began = jax.random.key(0), time.perf_counter()


def letters(dataset, key):
    """Ten classes, images halved to 14 x 14."""
    task = mj.data.episodes(WAYS, SHOTS, QUERIES)(dataset, key)
    halve = lambda x: x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
    return mj.Task(*(batch._replace(x=halve(batch.x)) for batch in (task.support, task.query)))


def start(key, widths):
    """Weights and biases of an MLP."""
    pairs = list(itertools.pairwise(widths))
    normals = [
        jax.random.normal(k, pair)
        for k, pair in zip(jax.random.split(key, len(pairs)), pairs, strict=True)
    ]
    return [(normal * (2 / len(normal)) ** 0.5, jnp.zeros(normal.shape[1])) for normal in normals]


def loss(params, batch, key):
    x = batch.x
    for kernel, bias in params.fast[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    logits = x @ params.fast[-1][0] + params.fast[-1][1]
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y).mean()
    return value, {"accuracy": (logits.argmax(axis=-1) == batch.y).mean()}


@functools.partial(jax.jit, static_argnums=(0, 3))
def curves(rule, weights, tasks, widths):
    """Query loss after every step [tasks, steps] from a random start, and accuracy after the last [tasks]."""
    descent = mj.inner_loop(
        loss,
        rule,
        steps=INNER_STEPS,
        differentiate=mj.first_order(),
        sample=mj.minibatch(BATCH),
        path=True,
    )

    def curve(params, task, key):
        params = params._replace(fast=start(key, widths))
        path = descent.adapt(params, task.support, key).fast
        losses, metrics = jax.lax.map(
            lambda fast: loss(params._replace(fast=fast), task.query, key), path
        )
        return losses.mean(), {"curve": losses, "accuracy": metrics["accuracy"][-1]}

    found = mj.evaluate(curve, mj.Params((), (), weights), tasks, KEY, tasks_at_once=32)
    return found["curve"].per_task, found["accuracy"].per_task


def adam(schedule, decay):
    """Adam or AdamW; its rate stands in `params.rule`, so that one compiled function serves all rates."""

    def optimizer(rate):
        return optax.adamw(lambda count: rate * SCHEDULES[schedule](count), weight_decay=decay)

    return mj.Rule(init=lambda params, key: RATES[0], optimizer=optimizer)


# Data: scripts without a letter in common, and digits.
split = mj.data.split_scripts(
    mj.data.glyphs(),
    train=["Latin"],
    validation=["Armenian", "Georgian"],
    test=["Greek", "Cyrillic"],
)
bunch = load_digits()
digits = mj.data.dataset((bunch.data / 16).astype("float32"), bunch.target)
letter_net, digit_net = (196, 32, WAYS), (64, 32, 32, WAYS)
draw = lambda sample, dataset, number, seed: mj.data.meta_batch(sample, number)(
    dataset, jax.random.key(seed)
)
validation = draw(letters, split.validation, options.tasks // 4, 1)
tests = {
    "Greek and Cyrillic letters": (draw(letters, split.test, options.tasks, 2), letter_net),
    "digits, a deeper net": (
        draw(mj.data.episodes(WAYS, SHOTS, QUERIES), digits, options.tasks, 3),
        digit_net,
    ),
}

# The learned optimizer: before learning it is Adam with this rate.
learned = mj.learned_optimizer(2e-3)
outer = mj.persistent(
    learned,
    loss,
    optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, options.steps))
    ),
    horizon=INNER_STEPS,
    truncation=20,
    pairs=PAIRS,
    std=0.03,
    start=lambda params, key: start(key, letter_net),
    sample=mj.minibatch(BATCH),
)
params = mj.Params(start(KEY, letter_net), (), learned.init(mj.Params((), ()), KEY))
sample = mj.data.meta_batch(letters, PAIRS)
state, records = mj.training.fit(
    outer,
    outer.init(params, sample(split.train, KEY), KEY),
    sample,
    split.train,
    KEY,
    steps=options.steps,
    fuse=10,
    every=50,
)
print(f"Learned in {records[-1]['seconds']:.0f} s.")

# Adam and AdamW: every rate, schedule and decay on the validation scripts.
tuned, validated = {}, {}
for method, decays in DECAYS.items():
    for schedule, decay in itertools.product(SCHEDULES, decays):
        rule = adam(schedule, decay)
        for rate in RATES:
            curve = curves(rule, rate, validation, letter_net)[0].mean(axis=0)
            validated[method, schedule, decay, float(rate)] = {
                name: of(curve).item() for name, of in MEASURES.items()
            }
    for measure in MEASURES:
        setting = min((s for s in validated if s[0] == method), key=lambda s: validated[s][measure])
        tuned[method, measure] = setting
        print(f"{method}, tuned for the {measure}: {setting[1:]}", flush=True)

# The test: every difference is paired by task, with the Adam that was tuned for this very measure.
rows, drawn = [], {}
for name, (tasks, widths) in tests.items():
    curve, accuracy = curves(learned, state.params.rule, tasks, widths)
    ours = {measure: of(curve) for measure, of in MEASURES.items()}
    drawn[name] = {"learned": curve.mean(axis=0)}
    for measure in MEASURES:
        for method in (*DECAYS, "learned"):
            row, value, right = (
                {"tasks": name, "measure": measure, "method": method},
                ours[measure],
                accuracy,
            )
            if method != "learned":
                _, schedule, decay, rate = tuned[method, measure]
                other, right = curves(adam(schedule, decay), rate, tasks, widths)
                value = MEASURES[measure](other)
                drawn[name][f"{method}, tuned for the {measure}"] = other.mean(axis=0)
                row |= {"schedule": schedule, "decay": decay, "rate": rate}
            found = {
                "loss": value,
                "accuracy": 100 * right,
                "learned_minus_this": ours[measure] - value,
            }
            for column, numbers in found.items():
                summary = mj.summarize(numbers)
                row |= {column: summary.mean.item(), f"{column}_interval": summary.interval.item()}
            rows.append(row)
            print(f"{name}, {measure}, {method}:")
            for column in found:
                print(
                    f"    {column:20s}{row[column]:8.3f} ± {row[f'{column}_interval']:.3f}",
                    flush=True,
                )

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for method, schedule, decay in dict.fromkeys(setting[:3] for setting in validated):
    losses = [validated[method, schedule, decay, float(rate)]["mean over steps"] for rate in RATES]
    style = {"Adam": "-", "AdamW": "--" if decay == DECAYS["AdamW"][0] else ":"}[method]
    color = f"C{list(SCHEDULES).index(schedule) + 1}"
    label = f"{method}, {schedule}" + (f", decay {decay:g}" if decay else "")
    axes[0].plot(RATES, losses, style, color=color, label=label)
ours = curves(learned, state.params.rule, validation, letter_net)[0].mean()
axes[0].axhline(ours, color="C0", linewidth=2.5, label="learned")
axes[0].set(
    xscale="log",
    ylim=(0.97 * float(ours), 2.4),
    xlabel="rate",
    ylabel="query loss, mean over 200 steps",
)
axes[0].set_title("validation: Armenian and Georgian")
axes[0].legend(fontsize=6.5)
for axis, (name, lines) in zip(axes[1:], drawn.items(), strict=True):
    for number, (label, line) in enumerate(lines.items()):
        axis.plot(
            range(1, INNER_STEPS + 1),
            line,
            color=f"C{number}",
            linewidth=2.5 if number == 0 else 1.2,
            label=label,
        )
    best = min(float(line.min()) for line in lines.values())
    axis.set(
        ylim=(0.95 * best, 2.4), xlabel="inner steps", ylabel="query loss", title=f"test: {name}"
    )
    axis.legend(fontsize=7)
parts = {"train": split.train, "validation": split.validation, "test": split.test}
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seed": 0,
    "digest": mj.data.class_split("scripts", parts).digest,
    "tasks": options.tasks,
    "outer_steps": options.steps,
    "training_seconds": records[-1]["seconds"],
    "seconds": time.perf_counter() - began,
    "rows": rows,
}
options.out.mkdir(parents=True, exist_ok=True)
(options.out / "learned_optimizer.json").write_text(json.dumps(report, indent=1) + "\n")
figure.savefig(options.out / "learned_optimizer.png", dpi=100)
print(f"{report['seconds']:.0f} s in all.")
