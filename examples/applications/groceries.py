"""Groceries told apart with the words of the shop: the use of a description beside one photograph.

Reads `grocery.npz` from the folder that METAJAX_DATA names. Tasks are the hard ones: two products
of the same kind, two apples or two juices, from one photograph each. Of the 43 kinds 12 have
several products; each of them is held out in turn. There are 81 products in all, which are too few
to train nets on, so that everything is linear:

- Photographs: a histogram of colours, and the linear map of it that tells the other products apart
  (discriminant analysis).
- Words: the pretrained sentence encoder, frozen (without its package words are counted), and a
  ridge regression from how the text of a product differs from those of its kind to how its
  photographs do.
- Trust: c = λ p + (1 - λ) w (AM3), with one λ. It and the strength of the ridge are chosen in each
  fold on the other kinds, each described by a regression that never saw it: words that are known by
  heart would be trusted too much.

Photographs and descriptions are taken relative to the mean of the two that a task shows, so that
words only say how the two differ ("no shots" knows that mean as well, without labels). λ can only
find that words are of no use if the kinds to choose on are like the one held out; eleven are few,
and it errs. Intervals are by Student's t over the 12 kinds, and, in brackets, over the tasks of
these 12 kinds as if there were no others.

    METAJAX_DATA=... python examples/applications/groceries.py --out .
"""

import pathlib
import re
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

COLOURS = ("green", "yellow", "orange", "red", "brown", "white", "purple", "pink", "blue")


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 2
    shots: tuple = (1, 5)
    queries: int = 10  # of each class
    size: int = 32  # height and width of a photograph
    dimensions: int = 24  # of the features of a photograph
    strengths: tuple = (0.1, 1.0, 10.0)  # of the ridge
    trusts: tuple = (
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        0.95,
        0.999,
    )  # λ; the last: picture only
    tasks: int = 400  # test tasks of each kind
    practice: int = 100  # tasks of each kind to choose on
    kinds: int = 12  # kinds of products with several of them
    split: str | None = None  # of the photographs; None is all of them


TINY = Config(
    tasks=2,
    practice=2,
    shots=(1,),
    queries=1,
    strengths=(0.1,),
    trusts=(0.999,),
    kinds=3,
    split="val",
)


def colours(pictures):
    """√ of the histogram of 4 x 4 x 4 colours in the middle: uint8[n, 32, 32, 3] -> [n, 64]."""
    level = pictures[:, 6:26, 6:26].astype(int) // 64
    code = (level @ (16, 4, 1)).reshape(len(pictures), -1)
    return np.sqrt((code[:, :, None] == np.arange(64)).mean(axis=1, dtype=np.float32))


def counted_words(texts):
    """The words of each text that another text has too, weighed by how rare they are."""
    words = [set(re.findall(r"[a-z]+", text.lower())) for text in texts]
    vocabulary = sorted(set().union(*words))
    counts = np.array([[word in of_text for word in vocabulary] for of_text in words], np.float32)
    counts = counts[:, counts.sum(axis=0) > 1]
    rare = counts * np.log(len(texts) / counts.sum(axis=0))
    return rare / np.linalg.norm(rare, axis=1, keepdims=True)


def ridge(x, y, strength):
    """The weights of ridge regression from x to y, in the dual form."""
    return x.T @ jnp.linalg.solve(x @ x.T + strength * jnp.eye(len(x)), y)


def summary(folds):
    """Mean, half the width of its interval over kinds, and of that over their tasks, in percent."""
    folds = 100 * np.asarray(folds)  # [kinds, tasks]
    means = folds.mean(axis=1)
    over_kinds = mj.summarize(jnp.asarray(means)).interval
    variance = folds.var(axis=1, ddof=1) / folds.shape[1]
    over_tasks = 1.96 * variance.sum() ** 0.5 / len(folds)
    return [float(means.mean()), float(over_kinds), float(over_tasks)]


def describe(params, info, key=None):
    """The guess is what is known of a class."""
    return info


def three_numbers(value, text):
    """A summary as text; `text` makes that of the first two numbers."""
    return f"{text(value)} ({value[2]:.1f})"


def main(config, out):
    """Holds out one kind of products after the other, and measures what words add to a picture."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data. Tasks hold the numbers of photographs and products: every fold looks up its own
    # features.
    shop = mj.data.groceries(size=config.size, split=config.split)
    photographs = np.asarray(shop.x)
    label = np.asarray(shop.y)  # the product of each photograph
    kind = np.array([name.partition("/")[0] for name in shop.names])  # of each product
    kinds = [name for name in dict.fromkeys(kind.tolist()) if (kind == name).sum() >= config.ways]
    kinds = kinds[: config.kinds]

    # alike @ x is the mean of x over the products of the same kind.
    alike = (kind[:, None] == kind[None]).astype(np.float32)
    alike /= alike.sum(axis=1, keepdims=True)

    def draw(name, shots, tasks, seed):
        """Tasks of two products of a kind, drawn with NumPy: kinds differ in their sizes."""
        rng = np.random.default_rng([seed, shots, kinds.index(name)])
        products = np.flatnonzero(kind == name)
        chosen = np.stack([rng.permutation(products)[: config.ways] for _ in range(tasks)])

        def some_rows(product):
            return rng.permutation(np.flatnonzero(label == product))[: shots + config.queries]

        rows = np.stack([[some_rows(product) for product in pair] for pair in chosen])

        def labels(number):
            return np.tile(np.repeat(np.arange(config.ways, dtype=np.int32), number), (tasks, 1))

        support_rows = rows[:, :, :shots].reshape(tasks, -1)
        query_rows = rows[:, :, shots:].reshape(tasks, -1)
        support = mj.Batch(support_rows, labels(shots), info=chosen)
        return mj.Task(support, mj.Batch(query_rows, labels(config.queries)))

    def iconic_colours():
        """The histogram of the picture with which the shop shows a product."""
        pictures = np.round(255 * np.asarray(shop.info["iconic"])).astype(np.uint8)
        small = [
            Image.fromarray(picture).resize((config.size, config.size)) for picture in pictures
        ]
        return colours(np.stack([np.asarray(picture) for picture in small]))

    def encoded_words(texts, names):
        """Vectors of the descriptions and of the names by the pretrained encoder, or None."""
        try:
            vectors = mj.nets.sentence_features(texts + names)
        except ImportError as error:
            print(f"Without the pretrained encoder: {error}")
            return None
        return vectors[: len(texts)], vectors[len(texts) :]

    picture = colours(photographs)
    descriptions = mj.data.grocery_descriptions()
    texts = [descriptions[name] for name in shop.names]
    names = [re.sub("[-/]", " ", name) for name in shop.names]
    named_colours = np.array(
        [[colour in text.lower() for colour in COLOURS] for text in texts], np.float32
    )
    encoded = encoded_words(texts, names)
    sources = {}  # side information about the products, {name: [products, d]}
    if encoded is not None:
        sentences, by_name = encoded
        sources["description"] = sentences
        sources["description and colours"] = np.hstack([sentences, named_colours / 2])
    sources["counted words"] = counted_words(texts)
    sources["iconic picture"] = iconic_colours()

    def product_means(x):
        """The mean of each product, of features of photographs."""
        return np.stack([x[label == product].mean(axis=0) for product in range(len(kind))])

    def discriminant(rest):
        """Features in which distance tells the products of `rest`, bool[products], apart.

        Returns:
            Features [photographs, d], and their means [products, d].
        """
        mine = rest[label]
        centred = picture - picture[mine].mean(axis=0)
        _, directions = np.linalg.eigh(centred[mine].T @ centred[mine])
        x = centred @ directions[:, ::-1][:, : config.dimensions]

        # Whiten what varies within a product, ...
        within = (x - product_means(x)[label])[mine]
        spread = within.T @ within / len(within)
        shrinkage = 0.1 * np.trace(spread) / len(spread)
        value, vector = np.linalg.eigh(spread + shrinkage * np.eye(len(spread)))
        x = x @ (vector / np.sqrt(value))

        # ... so that every direction counts by the share of its variance that tells products apart.
        value, vector = np.linalg.eigh(np.cov(product_means(x)[rest].T))
        x = (x @ (vector * np.sqrt(np.maximum(value, 0) / (value + 1)))).astype(np.float32)
        return x, product_means(x)

    def within_kind(x):
        """How products differ from the mean of their kind."""
        return x - alike @ x

    @jax.jit
    def guess(source, means, rest, strength, asked):
        """How photographs of every product differ within its kind, as guessed from a source.

        Args:
            source: side information about each product, [products, t].
            means: mean features of its photographs, [products, d].
            rest: bool[products], those to learn from. A product that is left out is a row of zeros,
                which changes no ridge regression.
            strength: of the ridge.
            asked: like `source`, what the guesses are made from.

        Returns:
            [products, d].
        """
        mask = rest[:, None]
        weights = ridge(mask * within_kind(source), mask * within_kind(means), strength)
        return within_kind(asked) @ weights

    guess_of_each_rest = jax.jit(jax.vmap(guess, (None, None, 0, None, None)))

    # Learners.
    encoder = mj.nets.identity_encoder
    loss = mj.losses.cross_entropy(mj.linear_head())
    picture_only = mj.query_loss(mj.prototypes(encoder, config.ways), loss)
    am3 = mj.query_loss(
        mj.modalities.adaptive_prototypes(encoder, describe, config.ways, config.dimensions), loss
    )

    def trust(share):
        """Params of AM3 with the same λ for all products."""
        bias = jax.scipy.special.logit(share)
        return mj.Params({}, (), {"kernel": jnp.zeros(config.dimensions), "bias": bias})

    @jax.jit
    def accuracy_of_each_trust(tasks):
        def accuracy(share):
            return mj.evaluate(am3, trust(share), tasks, key)["accuracy"].mean

        return jax.lax.map(accuracy, jnp.array(config.trusts))

    @jax.jit
    def accuracy_of_controls(share, tasks, names_only):
        """{control: accuracy of each task}."""
        found = mj.modalities.compare_side_information(
            am3, trust(share), tasks, key, names_only=names_only
        )
        return {control: metrics["accuracy"].per_task for control, metrics in found.items()}

    @jax.jit
    def accuracy_of_pictures(tasks):
        return mj.evaluate(picture_only, trust(0.5), tasks, key)["accuracy"].per_task

    @jax.jit
    def look_up(tasks, features, guesses):
        """The tasks with features and guesses in place of numbers, relative to the task's mean."""

        def centred(x):
            return x - x.mean(axis=1, keepdims=True)

        support = features[tasks.support.x]
        query = features[tasks.query.x] - support.mean(axis=1, keepdims=True)
        info = centred(guesses[tasks.support.info])
        return mj.Task(
            tasks.support._replace(x=centred(support), info=info), tasks.query._replace(x=query)
        )

    def choose(source, features, means, rest, practice):
        """The strength and the trust with the highest accuracy on the other kinds.

        Every kind is described by a regression that has not seen it.
        """
        rest_without = np.stack([rest & (kind != name) for name in practice])
        tried = np.zeros((len(config.strengths), len(config.trusts)))
        for row, strength in enumerate(config.strengths):
            guesses = guess_of_each_rest(source, means, rest_without, strength, source)
            for tasks, guesses_of_kind in zip(practice.values(), guesses, strict=True):
                found = accuracy_of_each_trust(look_up(tasks, features, guesses_of_kind))
                tried[row] += found / len(practice)
        row, column = np.unravel_index(tried.argmax(), tried.shape)
        return config.strengths[row], config.trusts[column]

    def fold(tested, practice, tasks):
        """{row: accuracy of each task} with one kind held out, and what was chosen.

        Args:
            tested: the kind that is held out.
            practice: {kind: tasks} of the others.
            tasks: of the one that is held out.
        """
        rest = kind != tested
        features, means = discriminant(rest)
        rows = {"picture only": accuracy_of_pictures(look_up(tasks, features, means))}
        chosen = {}
        for name, source in sources.items():
            strength, share = choose(source, features, means, rest, practice)
            chosen[name] = strength, share
            guesses = guess(source, means, rest, strength, source)
            # Only the encoder of sentences can read a name alone.
            reads_names = name == "description"
            guesses_by_name = guesses
            if reads_names:
                guesses_by_name = guess(source, means, rest, strength, by_name)
            by_control = accuracy_of_controls(
                share,
                look_up(tasks, features, guesses),
                look_up(tasks, features, guesses_by_name).support.info,
            )
            for control, accuracy in by_control.items():
                if control != "names only" or reads_names:
                    rows[f"{name}, {control}"] = accuracy
        return {row: np.asarray(accuracy) for row, accuracy in rows.items()}, chosen

    results = {}  # {shots: {row: summaries}}
    settings = {}  # {shots: {kind: {source: (ridge, trust)}}}
    for shots in config.shots:
        practice = {name: draw(name, shots, config.practice, seed=1) for name in kinds}
        runs = {}
        settings[shots] = {}
        for name in kinds:
            others = {other: tasks for other, tasks in practice.items() if other != name}
            tasks = draw(name, shots, config.tasks, seed=2)
            runs[name], settings[shots][name] = fold(name, others, tasks)
        results[shots] = {}
        for row in runs[kinds[0]]:
            less = [run[row] - run["picture only"] for run in runs.values()]
            results[shots][row] = {
                "accuracy": summary([run[row] for run in runs.values()]),
                "minus picture only": summary(less),
                "kinds": {name: float(100 * run[row].mean()) for name, run in runs.items()},
            }
        print(f"\n{common.shots_label(shots)}, {config.ways}-way within a kind, %:")
        print("accuracy, and the paired difference to the picture only")
        for row, found in results[shots].items():
            accuracy = three_numbers(found["accuracy"], common.cell)
            less = three_numbers(found["minus picture only"], common.difference)
            print(f"{row:<36} {accuracy:>18}   {less:>18}")
        print(f"{time.perf_counter() - started:.0f} s so far", flush=True)

    # The report.
    took = time.perf_counter() - started
    products = np.array(shop.names)
    digests = []
    for name in kinds:
        parts = {"train": products[kind != name].tolist(), "test": products[kind == name].tolist()}
        digests.append(mj.data.class_split("kinds", parts).digest)
    report = {
        **common.header(),
        "seconds": took,
        "kinds": kinds,
        "digests": digests,
        "tasks": config.tasks,
        "ways": config.ways,
        "queries": config.queries,
        "rows": results,
        "chosen (ridge, trust)": settings,
    }
    common.finish(out, "groceries", report, plot)


def plot(report, path):
    """What each source adds, and the kinds one by one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5))
    shown = [row for row in report["rows"]["1"] if "no shots" not in row and row != "picture only"]
    measured = {}
    for shots, rows in report["rows"].items():
        measured[common.shots_label(shots)] = {
            row: rows[row]["minus picture only"][:2] for row in shown
        }
    mj.plots.dot_plot(
        left,
        measured,
        xlabel="accuracy minus that of the picture only, points",
        reference=0.0,
        title="What side information adds",
    )
    source = shown[0].partition(",")[0]
    with_words = report["rows"]["1"][shown[0]]["kinds"]
    without = report["rows"]["1"]["picture only"]["kinds"]
    for row, name in enumerate(report["kinds"]):
        colour = mj.plots.RIGHT if with_words[name] >= without[name] else mj.plots.WRONG
        right.plot([without[name], with_words[name]], [row, row], color=colour, linewidth=2)
        right.plot(without[name], row, "o", color="0.5", markersize=4)
    right.axvline(50, color="0.6", linewidth=1)
    right.set(yticks=range(len(with_words)), yticklabels=report["kinds"])
    right.set(xlabel="accuracy, % (grey line: chance)")
    right.set_title(f"1 shot: from the picture only (dot) to {source} as well")
    right.invert_yaxis()
    right.grid(axis="x")
    common.save(
        figure, path, f"95 % intervals over {len(report['kinds'])} kinds, each held out in turn"
    )


if __name__ == "__main__":
    common.run(main, Config(), TINY, "tasks", "practice", description=__doc__)
