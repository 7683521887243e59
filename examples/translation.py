"""Dates, quantities and number words in languages never seen, from a few pairs: fine-tuning, or a net that looks up.

What is translated is small: "2021-03-14" is "14. März 2021" in German, "3 h" is "3 Stunden", "42" is "zweiundvierzig".
But it is real, in 164 languages (Unicode's CLDR in `babel`, and `num2words`); those of the test are neither trained on
nor used to choose anything. One net from sequence to sequence is trained in two ways: jointly, and then fine-tuned on
the pairs of the new language; or meta-trained to look things up in the pairs, which takes a little less time.

One run tests a quarter of the languages; the four folds test 151 of them once each, for the others have characters that
no training language has. `--thorough` tries more settings of fine-tuning; the table of docs/applications.md has it.

    python examples/translation.py --fold 0 --out .
    python examples/translation.py --fold 0 --steps 1500 --thorough --out .    # as in the table
"""

import argparse
import json
import pathlib
import platform
import re
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.data.sets.languages import (
    SOURCE,
    TARGET,
    pairs,
    phrases,
    split_languages,
    text,
    translation,
    translations,
)
from metajax.nets.translation import Translator, remember, translate, with_memory

SHOTS, QUERIES, TASKS, DRAWS, PIECE = (
    5,
    8,
    4,
    2,
    32,
)  # DRAWS tasks of each test class, judged PIECE at a time
ROWS = 64  # of a joint step, which then takes as long as one of TASKS * (SHOTS + QUERIES) sequences that look up
KINDS, CURVE = ("date", "unit", "number"), (1, 3, 5)
SETTINGS = {(60, "all"): (3e-4, 1e-3)}  # of fine-tuning: {(steps, layers): rates}
THOROUGH = SETTINGS | {
    (120, "all"): (1e-4, 3e-4, 1e-3),
    (240, "all"): (1e-4, 3e-4),
    (60, "upper"): (3e-3,),
}
UPPER = ("language", "after", "norm", "choose", "bias")

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=1200, help="outer steps of each training")
parser.add_argument(
    "--fold",
    type=int,
    default=0,
    help="0 to 3: which languages are the test; and the seed of the nets",
)
parser.add_argument(
    "--thorough", action="store_true", help="more settings of fine-tuning, for up to 240 steps"
)
parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path(),
    help="folder of translation-FOLD.json and .png",
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(options.fold), time.perf_counter()

# Data: three sets of languages, and for each class of a kind of phrase in a language, tasks that all methods share.
corpus = phrases()
split = split_languages(corpus, fold=options.fold)
languages = [sorted({name.partition("/")[0] for name in part.names}) for part in split[:3]]
print("Languages: {} to train, {} to validate, {} to test".format(*map(len, languages)))


def tasks_of(part, shots, draws, seed):
    """Tasks of every class, with `shots` pairs that count, and padding of weight 0 up to SHOTS."""

    def one(label, key):
        task = translation(part, label, key, shots=shots, queries=QUERIES, pool=shots or SHOTS)
        support = jax.tree.map(
            lambda leaf: jnp.pad(leaf, ((0, SHOTS - shots), (0, 0))), task.support
        )
        return task._replace(
            support=support._replace(weight=(jnp.arange(SHOTS) < shots).astype(jnp.float32))
        )

    labels = jnp.repeat(jnp.arange(part.classes), draws)
    return jax.jit(jax.vmap(one))(labels, jax.random.split(jax.random.key(seed), len(labels)))


validation = tasks_of(split.validation, SHOTS, 1, 1)
test = {
    shots: tasks_of(split.test, shots, DRAWS if shots == SHOTS else 1, 2 + shots) for shots in CURVE
}


def by_language(per_task, shots=SHOTS, kind=""):
    """{language: percent}, the mean of its tasks (of one kind): the language is the unit of every interval."""
    names = [split.test.names[label] for label in test[shots].context]
    of = np.array([name.partition("/")[0] if name.endswith(kind) else "" for name in names])
    return {
        name: 100 * float(np.asarray(per_task)[of == name].mean())
        for name in sorted(set(of) - {""})
    }


def interval(values):
    """Mean and half the width of the 95 % interval over languages."""
    summary = mj.summarize(jnp.array(list(values.values())))
    return summary.mean.item(), summary.interval.item()


def make_net(languages=1):
    characters = len(corpus.characters) + 2
    return mj.nets.functional(
        Translator(characters, SOURCE, TARGET, languages=languages, rngs=nnx.Rngs(options.fold))
    )


def train(name, task_loss, params, sample):
    """Trains for the given steps; returns the params and the seconds of both cores together."""
    print(f"\n{name}")
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, options.steps))
    outer, before = (
        mj.outer_loop(task_loss, optax.chain(optax.clip_by_global_norm(1.0), adam)),
        time.process_time(),
    )
    schedule = {"steps": options.steps, "fuse": 20, "every": 200}
    state, _ = mj.training.fit(outer, outer.init(params), sample, split.train, key, **schedule)
    return state.params, time.process_time() - before


def judge(task_loss):
    """(params, tasks) -> exact-match accuracy of each task, in pieces of one size, compiled once."""
    run = jax.jit(
        lambda params, tasks: mj.evaluate(task_loss, params, tasks, key, tasks_at_once=8)[
            "accuracy"
        ]
    )

    def accuracy(params, tasks):
        number = len(tasks.query.y)
        places = jnp.arange(-(-number // PIECE) * PIECE).reshape(-1, PIECE) % number
        pieces = (jax.tree.map(lambda leaf: leaf[rows], tasks) for rows in places)  # noqa: B023
        return jnp.concatenate([run(params, piece).per_task for piece in pieces])[:number]

    return accuracy


# Joint pretraining: all languages at once, each with a vector of its own; a new one starts from their mean.
apply, params = make_net(languages=split.train.classes)
loss = mj.losses.sequence_cross_entropy(apply)


def joint_rows(dataset, key):
    rows = jax.random.randint(key, (1, ROWS), 0, len(dataset.y))
    batch = pairs(dataset, rows)
    return batch._replace(x=batch.x | {"language": dataset.y[rows]})


joint, joint_seconds = train("Joint pretraining", mj.supervised(loss), params, joint_rows)
joint = joint.fast | {"language": joint.fast["language"].mean(axis=0, keepdims=True)}

# Fine-tuning: Adam on the pairs; the rate is a parameter, so that one compiled function serves all.
adam, tried = mj.Rule(init=lambda params, key: jnp.asarray(1e-3), optimizer=optax.adam), {}
print("\nFine-tuning: exact match in % on the validation languages")
for (steps, layers), rates in (THOROUGH if options.thorough else SETTINGS).items():
    descent = mj.inner_loop(loss, adam, steps=steps, differentiate=mj.first_order())
    fast = {name: leaf for name, leaf in joint.items() if layers == "all" or name in UPPER}
    start = mj.Params(fast, {name: leaf for name, leaf in joint.items() if name not in fast})
    judged = judge(mj.query_loss(descent, loss))
    for rate in rates:
        ready = start._replace(rule=jnp.asarray(rate))
        tried[steps, layers, rate] = (
            100 * judged(ready, validation).mean().item(),
            descent,
            judged,
            ready,
        )
        print(
            f"  {steps:3} steps, {layers:<5} layers, rate {rate:.0e}: {tried[steps, layers, rate][0]:.1f}"
        )
chosen = max(tried, key=lambda setting: tried[setting][0])
_, descent, judge_tuned, tuned = tried[chosen]

# Meta-training: the pairs are written into a memory, and the net learns to look things up in it.
apply, params = make_net()
meta_loss = mj.query_loss(remember(apply), mj.losses.sequence_cross_entropy(with_memory(apply)))
sample = mj.data.meta_batch(translations(SHOTS, QUERIES), TASKS)
meta, meta_seconds = train("Meta-training", meta_loss, params, sample)
judge_meta = judge(meta_loss)


# Without any net: a rule that knows what a month, a unit and a number are, and takes a pair with the same one.
def by_hand(task, replace):
    """Exact match of the target of that pair, as it stands or with its numbers replaced by those of the query."""
    say = lambda rows: [text(row, corpus.characters) for row in rows]
    sources, targets, right = say(task.support.x["source"]), say(task.support.y), []
    for query, truth in zip(say(task.query.x["source"]), say(task.query.y), strict=True):
        word = lambda source: re.split("[- ]", source)[1:2]
        pair = max(range(SHOTS), key=lambda i: word(sources[i]) == word(query))
        numbers = (re.findall(r"\d+", source) for source in (sources[pair], query))
        change = (
            {str(int(old)): str(int(new)) for old, new in zip(*numbers, strict=True)}
            if replace
            else {}
        )
        replaced = "".join(
            change.get(part.lstrip("0"), part) for part in re.split(r"(\d+)", targets[pair])
        )
        right.append(truth == replaced)
    return np.mean(right)


# The table.
tasks = [
    jax.tree.map(lambda leaf: np.asarray(leaf[i]), test[SHOTS])
    for i in range(len(test[SHOTS].context))
]  # noqa: B023
scores = {
    "Meta-trained": {shots: judge_meta(meta, drawn) for shots, drawn in test.items()},
    "Fine-tuned": {shots: judge_tuned(tuned, drawn) for shots, drawn in test.items()},
    "By hand: same word, other numbers": {SHOTS: np.array([by_hand(task, True) for task in tasks])},
    "By hand: same word, copied": {SHOTS: np.array([by_hand(task, False) for task in tasks])},
}
print(f"\nExact match in % on {len(languages[2])} unseen languages; intervals are over languages")
rows = []
for method, by_shots in scores.items():
    row = {f"{shots} pairs": by_language(values, shots) for shots, values in by_shots.items()}
    row |= {kind: by_language(by_shots[SHOTS], kind=kind) for kind in KINDS}
    row["minus fine-tuned"] = by_language(by_shots[SHOTS] - scores["Fine-tuned"][SHOTS])
    cells = (f"{name} " + "{:.1f} ± {:.1f}".format(*interval(row[name])) for name in row)
    print(f"  {method:<35}" + "  ".join(cells))
    rows.append({"method": method, **row})
took = time.perf_counter() - started
print(
    f"{took:.0f} s in all; processor seconds: joint {joint_seconds:.0f}, meta {meta_seconds:.0f}. Chosen: {chosen}"
)
device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
header = {
    "jax": jax.__version__,
    "device": device,
    "seconds": took,
    "steps": options.steps,
    "fold": options.fold,
}
header["training_processor_seconds"] = {"joint": joint_seconds, "meta": meta_seconds}
header["languages"] = dict(zip(("train", "validation", "test"), map(len, languages), strict=True))
header["test_classes"] = {
    kind: sum(name.endswith(kind) for name in split.test.names) for kind in KINDS
}
parts = {"train": split.train, "validation": split.validation, "test": split.test}
header["digest"] = mj.data.class_split("languages", parts).digest
header |= {"test_tasks": len(tasks), "dropped": split.dropped}
header["fine_tuning"] = {
    "chosen": chosen,
    "validation": {str(setting): row[0] for setting, row in tried.items()},
}
(options.out / f"translation-{options.fold}.json").write_text(
    json.dumps(header | {"rows": rows}, indent=1, ensure_ascii=False) + "\n"
)


# The picture: what the two methods say to one query of some tasks, and accuracy against pairs.
def says(adaptation, net):
    """(params, task) -> what is said to the queries, character by character."""
    answer = lambda adapted, source: translate(net, adapted, source, length=TARGET)
    return jax.jit(
        lambda params, task: answer(
            adaptation.adapt(params, task.support, key), task.query.x["source"]
        )
    )


figure, axes = plt.subplots(1, 2, figsize=(16, 6.2), width_ratios=(2.1, 1), layout="constrained")
answers = {
    "meta-trained": (says(remember(apply), with_memory(apply)), meta),
    "fine-tuned": (says(descent, apply), tuned),
}
columns = {"": 0, "source": 5.5, "true": 18, "meta-trained": 49, "fine-tuned": 80}
for name, left in columns.items():
    axes[0].text(left, -1.2, name, weight="bold", va="center")
every = {
    kind: [DRAWS * i for i, name in enumerate(split.test.names) if name.endswith(kind)]
    for kind in KINDS
}
shown = [
    number for kind, step in zip(KINDS, (5, 3, 2), strict=True) for number in every[kind][::step]
]
for line, task in enumerate(tasks[number] for number in shown):
    source, true = (
        text(ids[0], corpus.characters) for ids in (task.query.x["source"], task.query.y)
    )
    cells = {
        "": split.test.names[int(task.context)].partition("/")[0],
        "source": source,
        "true": true,
    }
    cells |= {
        name: text(say(params, task)[0], corpus.characters)
        for name, (say, params) in answers.items()
    }
    for name, cell in cells.items():
        for place, character in enumerate(cell):
            right = true[place : place + 1] == character
            colour = (mj.plots.RIGHT if right else mj.plots.WRONG) if name in answers else "black"
            axes[0].text(
                columns[name] + place,
                line,
                character,
                family="monospace",
                va="center",
                color=colour,
            )
axes[0].set(
    xlim=(0, 112),
    ylim=(len(shown), -2),
    title="Unseen languages, from five pairs; a wrong character is red",
)
axes[0].axis("off")
lines = {}
for row in rows:
    points = [
        (shots, *interval(row[f"{shots} pairs"])) for shots in CURVE if f"{shots} pairs" in row
    ]
    lines[row["method"]] = tuple(zip(*points, strict=True))
mj.plots.curves(
    axes[1], lines, xlabel="pairs of the unseen language", ylabel="exact match, %, 95 % intervals"
)
figure.savefig(options.out / f"translation-{options.fold}.png", dpi=110)
print(f"See translation-{options.fold}.png and .json in {options.out}.")
