"""Letters as picture, outline and name: what each is worth, and what happens when one is missing.

Needs no file: the letters are those of the fonts inside matplotlib, the names are Unicode's. One net per modality is
trained on 60 % of the letters, as prototypical networks are; 15 % serve to choose and to learn how to weigh, and 25 %
are the test. Picture and outline belong to an example; the name belongs to the class, and is given in the support set.

    python examples/modalities.py --out .
"""

import argparse
import functools
import json
import pathlib
import textwrap
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import modalities

WAYS, QUERIES, WIDTH, TASKS = 5, 2, 32, 400

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=1500, help="steps of training")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of modalities.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()

# Data: letters of all scripts, and their names as the numbers of their words.
letters = mj.data.glyph_modalities()
names = [mj.data.glyph_words(name) for name in letters.names]
words = {
    word: number + 1
    for number, word in enumerate(sorted({word for name in names for word in name.split()}))
}
length = max(len(name.split()) for name in names)
numbers = [[words[word] for word in name.split()] for name in names]
tokens = np.array([number + [0] * (length - len(number)) for number in numbers], np.int32)
letters = mj.data.dataset(letters.x, letters.y, names=letters.names, info=tokens)
sizes = [int(share * letters.classes) for share in (0.6, 0.15, 0.25)]
train, validation, test = mj.data.split_classes(letters, sizes, seed=0)
draw = lambda part, shots, seed: jax.jit(
    mj.data.meta_batch(mj.data.episodes(WAYS, shots, QUERIES), TASKS)
)(part, jax.random.key(seed))

# Nets: an encoder for each modality; all are slow, for here the fast weights are heads and weights of modalities.
rngs = nnx.Rngs(0)
encoders = {
    "image": mj.nets.Conv4(WIDTH, width=WIDTH, rngs=rngs),
    "outline": mj.nets.TemporalConv(4, WIDTH, width=48, rngs=rngs),
}
apply, seen = mj.nets.functional(
    mj.nets.Multimodal(encoders, mj.nets.fusion.mean, WIDTH, 1, rngs=rngs)
)
read, written = mj.nets.functional(
    mj.nets.Text(len(words) + 1, mj.nets.GRU(WIDTH, WIDTH, rngs=rngs), rngs=rngs)
)
params = mj.Params(fast={}, slow={"seen": seen.fast, "written": written.fast})


def encode(params, x, key=None, *, reference=None):
    """{"image": [n, width], "outline": [n, width]}."""
    return apply(mj.Params(params.slow["seen"], {}), x, key, reference=reference, method="encode")


def embed(params, x, key=None, *, reference=None):
    """The picture alone, [n, width]."""
    return encode(params, x, key, reference=reference)["image"]


def describe(params, info, key=None):
    """The names, [ways, width]."""
    return read(mj.Params(params.slow["written"], {}), info)


known = lambda params, x, key=None, *, reference=None: x.value  # of features that are there already
known_image = lambda params, x, key=None, *, reference=None: x.value["image"]
image_loss = mj.losses.cross_entropy(mj.linear_head(known_image))
late_loss = mj.losses.cross_entropy(modalities.late_head(known))


def named(ways):
    """AM3: class means of the picture that lean on the name."""
    return modalities.adaptive_prototypes(known_image, describe, ways, WIDTH)


def with_features(params, task):
    of = lambda batch: batch._replace(x=mj.Modalities(encode(params, batch.x), batch.x.present))
    return task._replace(support=of(task.support), query=of(task.query))


def learn(params, task, key):
    """Each modality alone, both together, and the picture with the name; features are computed once for all."""
    task, ways = with_features(params, task), task.support.info.shape[0]
    late = mj.query_loss(modalities.modal_prototypes(known, ways), late_loss)
    total, metrics = late(params, task, key)
    for name in encoders:
        alone = lambda batch: batch._replace(x=modalities.restrict(batch.x, [name]))  # noqa: B023
        total += late(params, mj.Task(alone(task.support), alone(task.query)), key)[0]
    for shots in (1.0, 0.0):
        support = task.support._replace(weight=jnp.full(len(task.support.y), shots))
        total += mj.query_loss(named(ways), image_loss)(
            params, task._replace(support=support), key
        )[0]
    return total, metrics


params = named(WAYS).init(params, key)
outer = mj.outer_loop(learn, optax.adam(optax.cosine_decay_schedule(3e-3, options.steps)))
sample = mj.data.meta_batch(mj.data.episodes(20, 1, 4), tasks=1)
state, _ = mj.training.fit(
    outer, outer.init(params), sample, train, key, steps=options.steps, fuse=20, every=options.steps
)
params = state.params

# How far to lean on a name is learned on letters whose names the net has not read: those of training it knows by heart.
features_of = jax.jit(jax.vmap(with_features, (None, 0)))
lean = lambda rule, task, key: mj.query_loss(named(WAYS), image_loss)(
    params._replace(rule=rule), task, key
)
outer, tasks = mj.outer_loop(lean, optax.adam(3e-2)), features_of(params, draw(validation, 1, 5))
step = jax.jit(outer.step)
share = outer.init(params.rule)
for number in range(150):
    share, _ = step(share, tasks, jax.random.fold_in(key, number))
params = params._replace(rule=share.params)
print(f"Trained for {time.perf_counter() - started:.0f} s on {train.classes} letters.")

percent = lambda summary: [100 * float(summary.mean), 100 * float(summary.interval)]
show = "{:5.1f} ± {:.1f}".format

# What picture and outline are worth, alone and weighed.
measured = modalities.ruler(
    encode, params, draw(validation, 8, 1), draw(test, 8, 2), key, ways=WAYS, shots=(1, 5)
)
for one in measured.values():
    print(f"\n{modalities.ruler_table(one)}")
    gained = f"{one.gap_closed():.2f} of what the oracle gains"
    print(f"{gained}; worth {one.shots_equivalent():.1f} shots of {one.best_single}")

# What the name is worth at one shot, beside its controls.
tasks = features_of(params, draw(test, 1, 3))
plain = mj.evaluate(
    mj.query_loss(mj.prototypes(known_image, WAYS), image_loss), params, tasks, key
)["accuracy"]
controls = modalities.compare_side_information(
    mj.query_loss(named(WAYS), image_loss), params, tasks, key
)
side = {"picture only": (percent(plain), [0.0, 0.0])}
for name, judged in controls.items():
    accuracy = judged["accuracy"]
    side[f"name, {name}"] = (
        percent(accuracy),
        percent(mj.summarize(accuracy.per_task - plain.per_task)),
    )
print("\nThe name at one shot, and (paired) minus picture only")
for name, (accuracy, paired) in side.items():
    print(f"{name:<18} {show(*accuracy)}   {paired[0]:+.1f} ± {paired[1]:.1f}")

# What happens when one is missing: in every query, and in a growing share of the shots.
late = mj.query_loss(modalities.modal_prototypes(known, WAYS), late_loss)
tasks = features_of(params, draw(test, 5, 4))


def without(rate, asked, task, key):
    """The task with modalities dropped from its shots at this rate, and only those asked for in its queries."""
    support = task.support._replace(x=modalities.drop_modalities(task.support.x, rate, key))
    return task._replace(
        support=support, query=task.query._replace(x=modalities.restrict(task.query.x, asked))
    )


missing = {"asked for": {}, "rate in the shots": {}}
judge = jax.jit(lambda tasks: mj.evaluate(late, params, tasks, key)["accuracy"])
keys = jax.random.split(key, TASKS)
for asked in (["image", "outline"], ["outline"], ["image"], []):
    changed = jax.vmap(functools.partial(without, 0.0, asked))(tasks, keys)
    missing["asked for"][" + ".join(asked) or "nothing"] = percent(judge(changed))
for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
    changed = jax.vmap(functools.partial(without, rate, ["image", "outline"]))(tasks, keys)
    missing["rate in the shots"][rate] = percent(judge(changed))
print("\n5 shots, late fusion")
for kind, values in missing.items():
    print(f"{kind}: " + ", ".join(f"{name} {show(*value)}" for name, value in values.items()))

# The table and the picture.
took = time.perf_counter() - started
rulers = {
    f"{shots} shot{'s' * (shots > 1)}": {
        row: percent(summary) for row, summary in one.accuracy.items()
    }
    for shots, one in measured.items()
}
header = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "tasks": TASKS,
}
gained = {
    shots: percent(one.against("learned", one.best_single)) for shots, one in measured.items()
}
single = {shots: one.best_single for shots, one in measured.items()}
parts = {"train": train, "validation": validation, "test": test}
header["digest"] = mj.data.class_split("letters", parts).digest
classes = [part.classes for part in parts.values()]
report = {
    **header,
    "classes": classes,
    "ruler": rulers,
    "learned minus best single": gained,
    "best single": single,
}
report |= {"name": side, "missing": missing}
(options.out / "modalities.json").write_text(json.dumps(report, indent=1) + "\n")

figure = plt.figure(figsize=(15, 4.4), layout="constrained")
left, *axes = figure.subfigures(1, 2, width_ratios=(1, 3.1))
panels = left.subplots(5, 3, width_ratios=(1, 1, 1.6))
chosen = np.asarray(test.start)[np.linspace(0, test.classes - 1, 5).astype(int)]
for (picture, outline, text), row in zip(panels, chosen, strict=True):
    picture.imshow(255 - test.x.value["image"][row, :, :, 0], cmap="gray")
    x, y, t, start = np.asarray(test.x.value["outline"][row]).T
    for stroke in np.split(np.arange(len(x)), np.flatnonzero(start)[1:]):
        outline.plot(x[stroke], y[stroke], color="0.4", linewidth=1)
    outline.scatter(x, y, c=t, s=4)
    outline.set(xlim=(-1.5, 1.5), ylim=(1.5, -1.5), aspect="equal")
    name = mj.data.glyph_words(test.names[int(test.y[row])])
    text.text(0, 0.5, textwrap.fill(name, 22), va="center", fontsize=7)
    for axis in (picture, outline, text):
        axis.axis("off")
for axis, title in zip(panels[0], ("picture", "outline", "name"), strict=True):
    axis.set_title(title, fontsize=9)
first, second, third = axes[0].subplots(1, 3)
fractions = {
    setting: {row: np.divide(value, 100) for row, value in rows.items()}
    for setting, rows in rulers.items()
}
mj.plots.accuracies(first, fractions, title="What each is worth")
mj.plots.accuracies(
    second,
    {"1 shot": {name: np.divide(value, 100) for name, (value, _) in side.items()}},
    title="What a name is worth",
)
rates, means, intervals = zip(
    *((100 * r, *v) for r, v in missing["rate in the shots"].items()), strict=True
)
mj.plots.curves(
    third, {"late fusion, 5 shots": (rates, means, intervals)}, xlabel="dropped from the shots, %",
    ylabel="accuracy, %", title="When modalities are missing",
)  # fmt: skip
alone = sorted((missing["asked for"][name][0], name) for name in ("outline", "image"))
for (accuracy, name), place in zip(alone, ("top", "bottom"), strict=True):
    third.axhline(accuracy, color="0.6", linestyle=":")
    third.text(rates[-1], accuracy, f"queries with {name} only", ha="right", va=place, fontsize=8)
figure.savefig(options.out / "modalities.png", dpi=100)
print(
    f"{time.perf_counter() - started:.0f} s in all; see {options.out / 'modalities.png'} and modalities.json."
)
