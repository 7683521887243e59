"""How far the answers on one task can be trusted: sixteen pictures in a folder, a table of texts.

A net learns from tasks of four digits; four others are for validation. Then there is a folder with
eight pictures of each of the last two, and nothing else is known: what accuracy to expect, which
labels to rule out, which answers to leave open. The pictures are those of scikit-learn, so that in
the end the true accuracy can be shown. Put your own folder, with a folder for each class, in their
place.

What an accuracy depends on must be learned from classes that the net has not seen: the digits of
the training are all named right, and would promise the same of yours.

    python examples/applications/one_task.py --out .
"""

import csv
import functools
import io
import pathlib
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import HashingVectorizer

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

WAYS, SHOTS, QUERIES = 2, 8, 25
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TABLE = """text,label
what is my balance,money
how much money do i have,money
show the balance of my account,money
how much is on my savings account,money
tell me my checking balance,money
will it rain tomorrow,weather
is it sunny outside,weather
what is the weather in paris,weather
how cold will it be tonight,weather
do i need an umbrella today,weather
play some jazz,music
put on my favourite song,music
turn up the music,music
play the next song,music
i want to hear the beatles,music
"""


class Config(NamedTuple):
    """The settings of a run."""

    steps: int = 300  # outer steps
    tasks: int = 200  # of validation, to learn what an accuracy depends on


TINY = Config(steps=2, tasks=8)


def pictures():
    """The digits as a data set of images of 32 x 32 pixels."""
    digits = load_digits()
    images = digits.images[..., None].repeat(4, axis=1).repeat(4, axis=2)
    labels = np.array(NAMES)[digits.target]
    return mj.data.dataset((images * 15.9).astype(np.uint8), labels, scale=255)


def write_folder(folder, images, labels, names):
    """One folder for each class, with its pictures."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = pathlib.Path(folder) / names[label]
        place.mkdir(exist_ok=True)
        plt.imsave(place / f"{number}.png", image[..., 0], cmap="gray", vmin=0, vmax=255)


def trained(source, steps):
    """(features of images, the adaptation of a head, its network, its params)."""
    apply, params = mj.nets.functional(mj.nets.Conv4(WAYS, width=16, rngs=nnx.Rngs(0)))
    embed = functools.partial(apply, method="embed")
    network = mj.linear_head(embed)
    adaptation = mj.prototypes(embed, WAYS)
    task_loss = mj.query_loss(adaptation, mj.losses.cross_entropy(network))
    loop = mj.outer_loop(task_loss, optax.adam(3e-3))
    batch = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, 5), 4)
    state, _ = mj.training.fit(
        loop, loop.init(params), batch, source, jax.random.key(0), steps=steps, every=steps
    )
    return adaptation, network, state.params


def text_task():
    """The trust in a classifier of the texts of a table, by class means of hashed n-grams."""
    rows = list(csv.DictReader(io.StringIO(TABLE)))
    names, labels = np.unique([row["label"] for row in rows], return_inverse=True)
    # Better features are those of a pretrained net: mj.nets.sentence_features(texts).
    hashed = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), n_features=512)
    features = hashed.transform([row["text"] for row in rows]).toarray().astype(np.float32)
    encode = mj.nets.identity_encoder
    held_out = mj.diagnostics.cross_predict(
        mj.prototypes(encode, len(names)),
        mj.linear_head(encode),
        mj.Params({}, {}),
        mj.Batch(jnp.array(features), jnp.array(labels)),
        jax.random.key(0),
    )
    return mj.diagnostics.trust(held_out)


def main(config, out):
    """Trains the net, asks about the folder, and draws what is found."""
    started = time.perf_counter()
    digits = pictures()
    parts = {"train": NAMES[:4], "validation": NAMES[4:8], "new": NAMES[8:]}
    split = mj.data.class_split("digits", parts, digits.names)
    train, validation, new = (mj.data.select_part(digits, split, part) for part in parts)
    adaptation, network, params = trained(train, config.steps)

    # Pictures that come one after the other are of one writer: the first would be no sample.
    order = np.random.default_rng(0).permutation(len(new.y))
    labels = np.asarray(new.y)[order]
    first = np.concatenate([np.flatnonzero(labels == way)[:SHOTS] for way in range(WAYS)])
    first, rest = order[first], np.delete(order, first)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, np.asarray(new.x)[first], np.asarray(new.y)[first], new.names)
        mine = mj.data.image_folder(folder, size=32, grey=True)
    scaled = lambda x: jnp.asarray(x, jnp.float32) / 255
    support = mj.Batch(scaled(mine.x), mine.y)
    queries = scaled(np.asarray(new.x)[rest])
    answers = jnp.array([mine.names.index(new.names[way]) for way in np.asarray(new.y)[rest]])

    # From the folder alone.
    ask = functools.partial(mj.diagnostics.cross_predict, adaptation, network, params)
    held_out = jax.jit(lambda x: ask(support, jax.random.key(0), queries=x))(queries)
    found = mj.diagnostics.trust(held_out)
    sets = mj.diagnostics.conformal_sets(held_out)

    # With what other tasks showed.
    def known_task(source, key):
        task = mj.data.episodes(WAYS, SHOTS, QUERIES)(source, key)
        held_out = ask(task.support, key, queries=task.query.x)
        right = (held_out.answers.argmax(axis=1) == task.query.y).mean()
        statistics = mj.diagnostics.support_statistics(held_out)
        return statistics, right, held_out.answers, task.query.y, mj.diagnostics.trust(held_out)

    keys = jax.random.split(jax.random.key(1), config.tasks)
    known = jax.jit(lambda source: jax.lax.map(lambda key: known_task(source, key), keys))
    own = mj.diagnostics.support_statistics(held_out)
    predicted = {}
    for name, source in {"training classes": train, "new classes": validation}.items():
        statistics, accuracies, logits, labels, _ = known(source)
        predictor = mj.diagnostics.fit_predictor(statistics, accuracies)
        learned = mj.diagnostics.predict_accuracy(predictor, own)
        mean = float(predictor.mean)
        predicted[f"mean of {name}"] = [mean, mean, mean]
        predicted[f"learned from {name}"] = [float(value) for value in learned]
    predicted["pictures left out"] = [float(value) for value in found[:3]]
    temperature = mj.diagnostics.best_temperature(logits.reshape(-1, WAYS), labels.reshape(-1))

    # What was not known.
    right = held_out.answers.argmax(axis=1) == answers
    true = float(right.mean())
    probabilities = jax.nn.softmax(held_out.answers / temperature)
    diagrams = {}
    for name, divided in {"as they are": 1.0, "with a temperature": temperature}.items():
        share = jax.nn.softmax(held_out.answers / divided)
        diagrams[name] = mj.diagnostics.reliability(share, answers, bins=10)
    curve = mj.diagnostics.risk_coverage(probabilities.max(axis=1), right)
    text = text_task()

    # One folder is one draw: the same of many folders of these digits.
    statistics, accuracies, *_, trusts = known(new)
    learned, low, high = mj.diagnostics.predict_accuracy(predictor, statistics)
    gap = lambda values: float(jnp.abs(values - accuracies).mean())
    inside = lambda low, high: float(((low <= accuracies) & (accuracies <= high)).mean())
    of_many = {
        "inside the interval of pictures left out": inside(trusts.low, trusts.high),
        "inside that of learned from new classes": inside(low, high),
        "error of pictures left out": gap(trusts.accuracy),
        "error of learned from new classes": gap(learned),
        "error of mean of new classes": gap(predictor.mean),
    }

    for name, (accuracy, low, high) in predicted.items():
        print(f"{name:<30} {accuracy:.2f} ({low:.2f} to {high:.2f})")
    print(f"true, on {len(answers)} other pictures: {true:.2f}")
    covered = jnp.take_along_axis(sets, answers[:, None], axis=1).mean()
    print(f"sets of {sets.sum(axis=1).mean():.1f} labels have the right one in {covered:.0%}")
    print(f"of {config.tasks} such folders:", {k: round(v, 2) for k, v in of_many.items()})
    print(f"table of texts: {text.accuracy:.2f} ({text.low:.2f} to {text.high:.2f})")
    print(f"in {time.perf_counter() - started:.0f} s")
    report = {
        **common.header(),
        "digest": split.digest,
        "true": true,
        "predictions": predicted,
        "of many folders": of_many,
        "reliability": {
            name: [np.asarray(part).tolist() for part in diagram]
            for name, diagram in diagrams.items()
        },
        "risk": [np.asarray(part).tolist() for part in (curve.coverage, curve.risk)],
        "texts": [float(value) for value in (text.accuracy, text.low, text.high)],
    }
    common.finish(out, "one_task", report, plot)


def plot(report, path):
    """Predicted accuracies, a reliability diagram, and errors against coverage."""
    figure, (one, two, three) = plt.subplots(1, 3, figsize=(11, 3.6))
    for place, (middle, low, high) in enumerate(report["predictions"].values()):
        one.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", color="C0")
    one.axvline(report["true"], color="C1", label="true")
    names = list(report["predictions"])
    one.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1.05))
    one.set(ylim=(len(names) - 0.5, -0.5))
    one.set(xlabel="accuracy", title="What to expect")
    one.legend(frameon=False)
    diagrams = {
        name: mj.diagnostics.Reliability(*map(jnp.array, parts))
        for name, parts in report["reliability"].items()
    }
    mj.plots.reliability_diagram(two, diagrams, title="Are the probabilities right?")
    coverage, risk = report["risk"]
    few = len(risk) // 20  # the share of wrong ones among fewer is noise
    mj.plots.curves(
        three,
        {"the surest first": (coverage[few:], risk[few:], None)},
        xlabel="share that is answered",
        ylabel="wrong answers",
        title="If unsure answers are left open",
    )
    common.save(figure, path, "one task of two new digits, eight pictures of each; one seed")


if __name__ == "__main__":
    common.run(main, Config(), TINY, description=__doc__)
