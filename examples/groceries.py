"""Groceries told apart with the shop's words: what a written description is worth beside one photograph.

Reads `grocery.npz` from the folder that METAJAX_DATA names. Tasks are the hard ones: two products of the same kind, two
apples or two juices, from one photograph each. Of the 43 kinds 12 have several products; each of them is held out in
turn. There are 81 products in all, too few to train nets on, so that everything is linear:

- photographs: a histogram of colours, and the map of it that tells the other products apart (discriminant analysis);
- words: the pretrained sentence encoder, frozen (without its package words are counted), and a ridge regression from
  how the text of a product differs from those of its kind to how its photographs do;
- trust: c = λ p + (1 - λ) w (AM3), with one λ. It and the strength of the ridge are chosen in each fold on the other
  kinds, each of them told by a regression that never saw it: words that are known by heart are trusted too much.

Photographs and descriptions are taken relative to the mean of the two that a task shows, so that words say how the two
differ and nothing else ("no shots" knows that mean as well, without labels). The trust can only say that words are of
no use if the kinds to choose on are like the one held out; eleven are few, and it errs. Intervals are by Student's t
over the 12 kinds, and, in brackets, over the tasks of these 12 kinds as if there were no others.

    METAJAX_DATA=... python examples/groceries.py --out .
"""

import argparse
import json
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import metajax as mj
from metajax import modalities
from metajax.nets import sentence_features

WAYS, QUERIES, DIMENSIONS = 2, 10, 24
STRENGTHS = (0.1, 1.0, 10.0)  # of the ridge
TRUSTS = (
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
)  # λ; the last one is the picture only
COLOURS = "green yellow orange red brown white purple pink blue"

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--tasks", type=int, default=400, help="test tasks of each kind")
parser.add_argument("--practice", type=int, default=100, help="tasks of each kind to choose on")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of groceries.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()

# Data. The tasks hold numbers of photographs and of products, so that each fold can look up its own features.
shop = mj.data.groceries(size=32)
photographs, label = np.asarray(shop.x), np.asarray(shop.y)
kind = np.array([name.split("/")[0] for name in shop.names])
kinds = [name for name in dict.fromkeys(kind.tolist()) if (kind == name).sum() >= WAYS]
alike = (kind[:, None] == kind[None]).astype(np.float32)
alike /= alike.sum(axis=1, keepdims=True)  # alike @ x: the mean of x over the products of a kind


def draw(name, shots, tasks, seed):
    """Tasks of two products of this kind; in NumPy, for every kind has another number of rows to compile for."""
    rng, mine = (
        np.random.default_rng([seed, shots, kinds.index(name)]),
        np.flatnonzero(kind == name),
    )
    chosen = np.stack([rng.permutation(mine)[:WAYS] for _ in range(tasks)])
    some = lambda product: rng.permutation(np.flatnonzero(label == product))[: shots + QUERIES]
    rows = np.stack([[some(product) for product in one] for one in chosen])
    y = lambda number: np.tile(np.repeat(np.arange(WAYS, dtype=np.int32), number), (tasks, 1))
    support = mj.Batch(rows[:, :, :shots].reshape(tasks, -1), y(shots), info=chosen)
    return mj.Task(support, mj.Batch(rows[:, :, shots:].reshape(tasks, -1), y(QUERIES)))


def colours(pictures):
    """√ of the histogram of 4 x 4 x 4 colours in the middle: uint8[n, 32, 32, 3] -> [n, 64]."""
    level = pictures[:, 6:26, 6:26].astype(int) // 64
    code = (level @ (16, 4, 1)).reshape(len(pictures), -1)
    return np.sqrt((code[:, :, None] == np.arange(64)).mean(axis=1, dtype=np.float32))


def counts(texts):
    """The words of each text that another one has too, weighed by how rare they are, at length 1."""
    words = [set(re.findall(r"[a-z]+", text.lower())) for text in texts]
    every = sorted({word for one in words for word in one})
    there = np.array([[word in one for word in every] for one in words], np.float32)
    there = there[:, there.sum(0) > 1]
    rare = there * np.log(len(texts) / there.sum(0))
    return rare / np.linalg.norm(rare, axis=1, keepdims=True)


descriptions, picture = mj.data.grocery_descriptions(), colours(photographs)
texts, names = (
    [descriptions[name] for name in shop.names],
    [re.sub("[-/]", " ", name) for name in shop.names],
)
said = np.array([[word in text.lower() for word in COLOURS.split()] for text in texts], np.float32)
small = [
    np.asarray(Image.fromarray(icon).resize((32, 32))) for icon in np.asarray(shop.info["iconic"])
]
counted = counts(texts)
known = {"counted words": counted}
try:
    both = sentence_features(texts + names)
    sentence, by_name = both[: len(texts)], both[len(texts) :]
    known = {
        "description": sentence,
        "description and colours": np.hstack([sentence, said / 2]),
    } | known
except ImportError as error:
    print(f"Without the pretrained encoder: {error}")
known["iconic picture"] = colours(np.stack(small))
written = next(iter(known))


def ridge(x, y, strength):
    return x.T @ jnp.linalg.solve(x @ x.T + strength * jnp.eye(len(x)), y)


def discriminant(rest):
    """Features [photographs, d] in which distance tells the products of `rest` apart, and their means [products, d]."""
    mine = rest[label]
    centred = picture - picture[mine].mean(axis=0)
    directions = np.linalg.eigh(centred[mine].T @ centred[mine])[1][:, ::-1][:, :DIMENSIONS]
    x = centred @ directions
    means = lambda x: np.stack([x[label == product].mean(axis=0) for product in range(len(kind))])
    off = (x - means(x)[label])[mine]
    spread = off.T @ off / len(off)
    value, vector = np.linalg.eigh(
        spread + 0.1 * np.trace(spread) / len(spread) * np.eye(len(spread))
    )
    x = x @ (vector / np.sqrt(value))
    # Within a product every direction is now as noisy; each counts by what share of it tells products apart.
    value, vector = np.linalg.eigh(np.cov(means(x)[rest].T))
    x = (x @ (vector * np.sqrt(np.maximum(value, 0) / (value + 1)))).astype(np.float32)
    return x, means(x)


within = lambda x: x - alike @ x  # how products differ from the mean of their kind


@jax.jit
def guess(told, means, rest, strength, others):
    """How photographs of every product differ within its kind, from what is told of it: [81, d].

    Learned on the products of `rest`, bool[81]; one left out is a row of zeros, which changes no ridge regression.
    """
    return within(others) @ ridge(
        rest[:, None] * within(told), rest[:, None] * within(means), strength
    )


guess_apart = jax.jit(jax.vmap(guess, (None, None, 0, None, None)))
seen = lambda params, x, key=None, *, reference=None: x
loss = mj.losses.cross_entropy(mj.linear_head(seen))
am3 = mj.query_loss(
    modalities.adaptive_prototypes(seen, lambda params, info, key=None: info, WAYS, DIMENSIONS),
    loss,
)
plain = mj.query_loss(mj.prototypes(seen, WAYS), loss)


def trust(share):
    """Params of AM3 with the same λ for all products."""
    return mj.Params(
        {}, (), {"kernel": jnp.zeros(DIMENSIONS), "bias": jax.scipy.special.logit(share)}
    )


@jax.jit
def try_out(tasks):
    """Accuracy of each trust, [trusts]."""
    accuracy = lambda share: mj.evaluate(am3, trust(share), tasks, key)["accuracy"].mean
    return jax.lax.map(accuracy, jnp.array(TRUSTS))


judge = jax.jit(
    lambda share, tasks, names: modalities.compare_side_information(
        am3, trust(share), tasks, key, names_only=names
    )
)
judge_plain = jax.jit(lambda tasks: mj.evaluate(plain, trust(0.5), tasks, key)["accuracy"].per_task)


@jax.jit
def look_up(tasks, features, info):
    """Numbers of photographs and products -> their features and what is told of them, relative to the task's mean."""
    centred = lambda x: x - x.mean(axis=1, keepdims=True)
    support, query = features[tasks.support.x], features[tasks.query.x]
    known = centred(info[tasks.support.info])
    query -= support.mean(axis=1, keepdims=True)
    return mj.Task(
        tasks.support._replace(x=centred(support), info=known), tasks.query._replace(x=query)
    )


def fold(test, practice, tasks):
    """{row: accuracy of each task} with one kind held out, and what was chosen."""
    rest, rows, chosen = kind != test, {}, {}
    features, means = discriminant(rest)
    rows["picture only"] = judge_plain(look_up(tasks, features, means))
    others = [name for name in kinds if name != test]
    without = np.stack([rest & (kind != name) for name in others])
    for name, told in known.items():
        tried = np.zeros((len(STRENGTHS), len(TRUSTS)))
        for row, strength in enumerate(STRENGTHS):
            apart = guess_apart(told, means, without, strength, told)
            for one, info in zip(others, apart, strict=True):
                tried[row] += try_out(look_up(practice[one], features, info)) / len(others)
        row, column = np.unravel_index(tried.argmax(), tried.shape)
        chosen[name] = STRENGTHS[row], TRUSTS[column]
        info = guess(told, means, rest, STRENGTHS[row], told)
        by = guess(told, means, rest, STRENGTHS[row], by_name) if name == "description" else info
        judged = judge(
            TRUSTS[column],
            look_up(tasks, features, info),
            look_up(tasks, features, by).support.info,
        )
        rows |= {f"{name}, {control}": one["accuracy"].per_task for control, one in judged.items()}
        if name != "description":
            del rows[f"{name}, names only"]
    return {row: np.asarray(value) for row, value in rows.items()}, chosen


def summary(folds):
    """Mean, half the width of the 95 % interval over kinds by Student's t, and that over their tasks, in percent."""
    folds = 100 * np.asarray(folds)  # [kinds, tasks]
    means, number = folds.mean(axis=1), len(folds)
    over_kinds = mj.summarize(jnp.asarray(means)).interval
    over_tasks = 1.96 * (folds.var(axis=1, ddof=1) / folds.shape[1]).sum() ** 0.5 / number
    return [float(means.mean()), float(over_kinds), float(over_tasks)]


results, settings = {}, {}
for shots in (1, 5):
    practice = {name: draw(name, shots, options.practice, seed=1) for name in kinds}
    runs, chosen = zip(
        *(fold(name, practice, draw(name, shots, options.tasks, seed=2)) for name in kinds),
        strict=True,
    )
    settings[shots] = dict(zip(kinds, chosen, strict=True))
    results[shots] = {
        row: {
            "accuracy": summary([run[row] for run in runs]),
            "minus picture only": summary([run[row] - run["picture only"] for run in runs]),
            "kinds": {
                name: float(100 * run[row].mean()) for name, run in zip(kinds, runs, strict=True)
            },
        }
        for row in runs[0]
    }
    print(
        f"\n{shots} shot{'s' * (shots > 1)}, {WAYS}-way within a kind: accuracy, and (paired) minus picture only, %"
    )
    for row, one in results[shots].items():
        line = "{:<36} {:5.1f} ± {:4.1f} ({:.1f})   {:+5.2f} ± {:.2f} ({:.2f})"
        print(line.format(row, *one["accuracy"], *one["minus picture only"]))
    print(f"{time.perf_counter() - started:.0f} s so far", flush=True)

took = time.perf_counter() - started
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "kinds": kinds,
}
products = np.array(shop.names)
parts = (
    {"train": products[kind != name].tolist(), "test": products[kind == name].tolist()}
    for name in kinds
)
report["digests"] = [mj.data.class_split("kinds", part).digest for part in parts]
report |= {"tasks": options.tasks, "ways": WAYS, "queries": QUERIES, "rows": results}
report |= {"chosen (ridge, trust)": settings}
(options.out / "groceries.json").write_text(json.dumps(report, indent=1) + "\n")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
shown = [row for row in results[1] if "no shots" not in row and row != "picture only"]
for number, (shots, rows) in enumerate(results.items()):
    mean, interval, _ = np.array([rows[row]["minus picture only"] for row in shown]).T
    place = np.arange(len(shown)) + 0.2 * (number - 0.5)
    left.errorbar(
        mean,
        place,
        xerr=interval,
        fmt="o",
        markersize=5,
        capsize=2,
        label=f"{shots} shot{'s' * (shots > 1)}",
    )
left.axvline(0, color="0.6", linewidth=1)
left.set(yticks=range(len(shown)), yticklabels=shown, xlabel="accuracy minus picture only, points")
left.set_title("What is told of a product, over 12 kinds held out", fontsize=10)
left.invert_yaxis()
left.legend(frameon=False)
best, alone = (results[1][row]["kinds"] for row in (f"{written}, given", "picture only"))
for row, name in enumerate(kinds):
    better = best[name] >= alone[name]
    right.plot(
        [alone[name], best[name]],
        [row, row],
        color=mj.plots.RIGHT if better else mj.plots.WRONG,
        linewidth=2,
    )
    right.plot(alone[name], row, "o", color="0.5", markersize=4)
right.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel="accuracy, %", xlim=(45, 100))
right.set_title(f"1 shot: from picture only (dot) to {written} as well", fontsize=10)
right.invert_yaxis()
for axis in (left, right):
    axis.grid(alpha=0.3, axis="x")
    axis.spines[["top", "right"]].set_visible(False)
figure.savefig(options.out / "groceries.png", dpi=100)
print(f"{took:.0f} s; see {options.out / 'groceries.png'} and groceries.json.")
