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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common


class Config(NamedTuple):
    """The settings of a run."""

    # The inner problem.
    ways: int = 10
    shots: int = 8
    queries: int = 4  # of each class
    batch: int = 20  # examples in a minibatch
    inner_steps: int = 200
    letter_net: tuple = (196, 32, 10)  # widths of the layers
    digit_net: tuple = (64, 32, 32, 10)
    # The outer problem.
    first_rate: float = 2e-3  # before learning, the learned optimizer is Adam with this rate
    outer_rate: float = 5e-3
    truncation: int = 20  # inner steps in an outer step
    pairs: int = 16  # of problems, perturbed in opposite directions
    std: float = 0.03  # of the perturbations
    fuse: int = 10  # outer steps in one compiled call
    tasks_at_once: int = 32  # in a test
    # What Adam and AdamW are tuned over.
    rates: int = 13  # from 1e-4 to 1e-1, at even distances of their logarithms
    schedules: tuple = ("constant", "cosine", "warm-up and cosine")
    decays: tuple = (0.1, 1.0)  # of AdamW
    steps: int = 800  # outer steps
    tasks: int = 256  # in each test; a quarter of them for tuning


TINY = Config(
    steps=2,
    tasks=4,
    inner_steps=4,
    letter_net=(196, 4, 10),
    digit_net=(64, 4, 4, 10),
    truncation=2,
    pairs=2,
    fuse=1,
    tasks_at_once=1,
    rates=2,
    schedules=("cosine",),
    decays=(0.1,),
)


def halved(batch):
    """Images of 28 x 28 as vectors of 14 * 14."""
    blocks = batch.x.reshape(-1, 14, 2, 14, 2)
    return batch._replace(x=blocks.mean(axis=(2, 4)).reshape(-1, 196))


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


def summary(column, values):
    """Mean and half the width of the 95 % interval over tasks, as two entries of a row."""
    found = mj.summarize(values)
    return {column: found.mean.item(), f"{column}_interval": found.interval.item()}


def main(config, out):
    """Learns an optimizer, tunes Adam and AdamW, tests all of them, and draws the losses."""
    schedules = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, config.inner_steps),
        "warm-up and cosine": optax.warmup_cosine_decay_schedule(
            0.0, 1.0, config.inner_steps // 10, config.inner_steps
        ),
    }
    schedules = {name: schedules[name] for name in config.schedules}
    all_decays = {"Adam": (0.0,), "AdamW": config.decays}
    rates = jnp.logspace(-4, -1, config.rates)
    measures = {
        "mean over steps": lambda curve: curve.mean(axis=-1),
        "last step": lambda curve: curve[..., -1],
    }

    key = jax.random.key(0)
    began = time.perf_counter()

    # The inner problem: its tasks, its net and its loss.
    def letters(dataset, key):
        """A task of ten letters."""
        task = mj.data.episodes(config.ways, config.shots, config.queries)(dataset, key)
        return mj.Task(halved(task.support), halved(task.query))

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def curves(rule, weights, tasks, widths):
        """The query loss [tasks, steps], and the accuracy after the last step [tasks].

        Args:
            rule: the optimizer.
            weights: its parameters, `params.rule`.
            tasks: what it is run on, from a random start.
            widths: of the layers of the net.
        """
        descent = mj.inner_loop(
            loss,
            rule,
            steps=config.inner_steps,
            differentiate=mj.first_order(),
            sample=mj.minibatch(config.batch),
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
        found = mj.evaluate(curve, params, tasks, key, tasks_at_once=config.tasks_at_once)
        return found["curve"].per_task, found["accuracy"].per_task

    @functools.cache
    def adam(schedule, decay):
        """Adam or AdamW. The rate is in `params.rule`, so that one program serves all rates."""

        def optimizer(rate):
            return optax.adamw(lambda count: rate * schedules[schedule](count), weight_decay=decay)

        return mj.learned(optimizer, rates[0])

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

    validation = draw(
        letters, mj.data.select_part(glyphs, split, "validation"), config.tasks // 4, 1
    )
    tests = {
        "Greek and Cyrillic letters": (
            draw(letters, mj.data.select_part(glyphs, split, "test"), config.tasks, 2),
            config.letter_net,
        ),
        "digits, a deeper net": (
            draw(
                mj.data.episodes(config.ways, config.shots, config.queries), digits, config.tasks, 3
            ),
            config.digit_net,
        ),
    }

    # The learned optimizer.
    learned = mj.learned_optimizer(config.first_rate)
    outer = mj.persistent(
        learned,
        loss,
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps)),
        ),
        horizon=config.inner_steps,
        truncation=config.truncation,
        pairs=config.pairs,
        std=config.std,
        start=lambda params, key: random_weights(key, config.letter_net),
        sample=mj.minibatch(config.batch),
    )
    params = mj.Params(
        random_weights(key, config.letter_net), (), learned.init(mj.Params((), ()), key)
    )
    sample = mj.data.meta_batch(letters, config.pairs)
    state, records = mj.training.fit(
        outer,
        outer.init(params, sample(train, key), key),
        sample,
        train,
        key,
        steps=config.steps,
        fuse=config.fuse,
        every=50,
    )
    training_seconds = records[-1]["seconds"]
    print(f"Learned in {training_seconds:.0f} s.")

    # Adam and AdamW: every rate, schedule and decay on the validation scripts.
    validated = {}  # {(method, schedule, decay, rate): {measure: loss}}
    for method, decays in all_decays.items():
        for schedule, decay in itertools.product(schedules, decays):
            for rate in rates:
                losses, _ = curves(adam(schedule, decay), rate, validation, config.letter_net)
                curve = losses.mean(axis=0)
                validated[method, schedule, decay, float(rate)] = {
                    measure: of(curve).item() for measure, of in measures.items()
                }

    tuned = {}  # {(method, measure): (schedule, decay, rate)}
    for method, measure in itertools.product(all_decays, measures):
        mine = [setting for setting in validated if setting[0] == method]
        best = min(mine, key=lambda setting: validated[setting][measure])
        tuned[method, measure] = best[1:]
        print(f"{method}, tuned for the {measure}: {best[1:]}", flush=True)

    # The test. A difference is paired by task, with the Adam that was tuned for this measure.
    rows = []
    for name, (tasks, widths) in tests.items():
        our_curves, our_accuracy = curves(learned, state.params.rule, tasks, widths)
        for measure, method in itertools.product(measures, (*all_decays, "learned")):
            row = {"tasks": name, "measure": measure, "method": method}
            losses = our_curves
            accuracy = our_accuracy
            if method != "learned":
                schedule, decay, rate = tuned[method, measure]
                losses, accuracy = curves(adam(schedule, decay), rate, tasks, widths)
                row |= {"schedule": schedule, "decay": decay, "rate": rate}
            value = measures[measure](losses)
            row |= summary("loss", value)
            row |= summary("accuracy", 100 * accuracy)
            row |= summary("learned_minus_this", measures[measure](our_curves) - value)
            rows.append(row)
            print(f"{name}, {measure}, {method}:")
            for column in ("loss", "accuracy", "learned_minus_this"):
                interval = row[f"{column}_interval"]
                print(f"    {column:20s}{row[column]:8.3f} ± {interval:.3f}", flush=True)

    report = {
        **common.header(),
        "seed": 0,
        "digest": split.digest,
        "tasks": config.tasks,
        "outer_steps": config.steps,
        "training_seconds": training_seconds,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    common.finish(out, "learned_optimizer", report, plot)


def plot(report, path):
    """The loss of each optimizer in each test, by the measure that Adam was tuned for."""
    tests = list(dict.fromkeys(row["tasks"] for row in report["rows"]))
    figure, panels = plt.subplots(1, len(tests), figsize=(11, 3.4), sharey=True)
    for axes, test in zip(panels, tests, strict=True):
        measured = {}
        for row in report["rows"]:
            if row["tasks"] == test:
                name = f"loss, {row['measure']}"
                value = row["loss"], row["loss_interval"]
                measured.setdefault(name, {})[row["method"]] = value
        mj.plots.dot_plot(axes, measured, xlabel="query loss (less is better)", title=test)
    common.save(figure, path, "95 % intervals over test tasks, of one learned optimizer")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
