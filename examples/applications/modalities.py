"""Letters as picture, outline and name: how much each helps, and what happens when one is missing.

The script needs no file: the letters are those of the fonts inside matplotlib, and the names are
Unicode's. One net for each modality is trained on 60 % of the letters, as prototypical networks
are; 15 % serve to choose and to learn how to weigh, and 25 % are the test. Picture and outline
belong to an example. The name belongs to the class, and is given in the support set.

    python examples/applications/modalities.py --out .
"""

import functools
import pathlib
import sys
import textwrap
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}  # of the letters


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 5
    shots: tuple = (1, 5)
    most_shots: int = 8  # of the ruler, which measures how many shots a modality stands in for
    queries: int = 2  # of each class
    tasks: int = 400
    width: int = 32  # of the features that picture, outline and name share
    outline_channels: int = 48  # of the net for outlines
    training_ways: int = 20
    training_queries: int = 4  # of each class; there is one shot
    outer_rate: float = 3e-3
    fuse: int = 20  # steps in one compiled call
    trust_steps: int = 150  # of learning how much to trust a name
    trust_rate: float = 3e-2
    rates: tuple = (
        0.0,
        0.2,
        0.4,
        0.6,
        0.8,
    )  # share of the modalities that are dropped from the shots
    steps: int = 1500  # steps of training


TINY = Config(
    shots=(1,),
    most_shots=2,
    steps=2,
    tasks=4,
    width=4,
    outline_channels=4,
    training_ways=5,
    training_queries=1,
    fuse=1,
    trust_steps=2,
    rates=(0.0,),
)


def restrict(batch, names):
    """The batch with these modalities alone."""
    return batch._replace(x=mj.modalities.restrict(batch.x, names))


def the_same(tasks, key):
    """A sampler that returns its source: every step gets the same tasks."""
    return tasks


def main(config, out):
    """Trains a net for each modality, and measures what each of them is worth."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data: letters of all scripts. `info` holds their names as the numbers of their words.
    letters = mj.data.glyph_modalities()
    names = [mj.data.glyph_words(name).split() for name in letters.names]
    vocabulary = sorted({word for name in names for word in name})
    number_of = {word: number + 1 for number, word in enumerate(vocabulary)}  # 0 is padding
    tokens = np.zeros((len(names), max(map(len, names))), np.int32)
    for row, name in enumerate(names):
        tokens[row, : len(name)] = [number_of[word] for word in name]
    letters = mj.data.dataset(
        letters.x, letters.y, names=letters.names, info=tokens, scale=letters.scale
    )
    sizes = {part: int(share * letters.classes) for part, share in SHARES.items()}
    split = mj.data.draw_split(letters.names, sizes, seed=0)
    parts = {part: mj.data.select_part(letters, split, part) for part in split.parts}

    def draw(part, shots, seed):
        """Tasks of one part, stacked along a leading axis."""
        sample = mj.data.meta_batch(
            mj.data.episodes(config.ways, shots, config.queries), config.tasks
        )
        return jax.jit(sample)(parts[part], jax.random.key(seed))

    # Nets: an encoder for each modality. All are slow, because here the fast weights are heads and
    # weights of modalities.
    rngs = nnx.Rngs(0)
    encoders = {
        "image": mj.nets.Conv4(config.width, width=config.width, rngs=rngs),
        "outline": mj.nets.TemporalConv(4, config.width, width=config.outline_channels, rngs=rngs),
    }
    apply, of_examples = mj.nets.functional(
        mj.nets.Multimodal(encoders, mj.nets.fusion.mean, config.width, 1, rngs=rngs)
    )
    read, of_names = mj.nets.functional(
        mj.nets.Text(
            len(vocabulary) + 1, mj.nets.GRU(config.width, config.width, rngs=rngs), rngs=rngs
        )
    )
    params = mj.Params(fast={}, slow={"examples": of_examples.fast, "names": of_names.fast})

    def encode(params, x, key=None, *, reference=None):
        """{"image": [n, config.width], "outline": [n, config.width]}."""
        net = mj.Params({}, params.slow["examples"])
        return apply(net, x, key, reference=reference, method="encode")

    def describe(params, info, key=None):
        """The features of the names, [ways, config.width]."""
        return read(mj.Params({}, params.slow["names"]), info)

    # What follows reads features that are computed already: all of them, or those of the picture.
    encoder = mj.nets.identity_encoder
    picture, _ = mj.nets.from_function(lambda params, x: x.value["image"])
    picture_loss = mj.losses.cross_entropy(mj.linear_head(picture))
    late_loss = mj.losses.cross_entropy(mj.modalities.late_head(encoder))

    def with_names(ways):
        """AM3: class means of the picture, mixed with the name by a learned trust."""
        return mj.modalities.adaptive_prototypes(picture, describe, ways, config.width)

    def with_features(params, task):
        """The task with features in the place of inputs."""

        def encoded(batch):
            return batch._replace(x=mj.Modalities(encode(params, batch.x), batch.x.present))

        return task._replace(support=encoded(task.support), query=encoded(task.query))

    def training_loss(params, task, key):
        """The sum of the losses of all ways to answer. Features are computed once for all of them.

        These are picture and outline together and each alone, and the picture with the name, with
        and without shots.
        """
        task = with_features(params, task)
        adaptation = mj.modalities.modal_prototypes(encoder, config.training_ways)
        late = mj.query_loss(adaptation, late_loss)
        named = mj.query_loss(with_names(config.training_ways), picture_loss)
        total, metrics = late(params, task, key)
        for name in encoders:
            alone = mj.Task(restrict(task.support, [name]), restrict(task.query, [name]))
            total += late(params, alone, key)[0]
        for weight in (1.0, 0.0):
            support = task.support._replace(weight=jnp.full(len(task.support.y), weight))
            total += named(params, task._replace(support=support), key)[0]
        return total, metrics

    params = with_names(config.ways).init(params, key)
    outer = mj.outer_loop(
        training_loss, optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
    )
    state, _ = mj.training.fit(
        outer,
        outer.init(params),
        mj.data.meta_batch(
            mj.data.episodes(config.training_ways, 1, config.training_queries), tasks=1
        ),
        parts["train"],
        key,
        steps=config.steps,
        fuse=config.fuse,
        every=config.steps,
    )
    params = state.params

    # How much to trust a name is learned on letters whose names the net has not read. It knows
    # those of the training letters by heart.
    features_of = jax.jit(jax.vmap(with_features, (None, 0)))
    named = mj.query_loss(with_names(config.ways), picture_loss)

    def trust_loss(rule_params, task, key):
        """The loss as a function of the rule alone."""
        return named(params._replace(rule=rule_params.rule), task, key)

    trust = mj.outer_loop(trust_loss, optax.adam(config.trust_rate))
    state, _ = mj.training.fit(
        trust,
        trust.init(mj.Params({}, {}, params.rule)),
        the_same,
        features_of(params, draw("validation", 1, 5)),
        key,
        steps=config.trust_steps,
        every=config.trust_steps,
        progress=False,
    )
    params = params._replace(rule=state.params.rule)
    seconds = time.perf_counter() - started
    print(f"Trained for {seconds:.0f} s on {parts['train'].classes} letters.")

    # Picture and outline, alone and weighed.
    rulers = mj.modalities.ruler(
        encode,
        params,
        draw("validation", config.most_shots, 1),
        draw("test", config.most_shots, 2),
        key,
        ways=config.ways,
        shots=config.shots,
    )
    for ruler in rulers.values():
        print(f"\n{mj.modalities.ruler_table(ruler)}")
        print(f"{ruler.gap_closed():.2f} of what the oracle gains;", end=" ")
        print(f"equal to {ruler.shots_equivalent():.1f} shots of {ruler.best_single}")

    # The name at one shot, and its controls.
    tasks = features_of(params, draw("test", 1, 3))
    alone = mj.query_loss(mj.prototypes(picture, config.ways), picture_loss)
    picture_only = mj.evaluate(alone, params, tasks, key)["accuracy"].per_task
    controls = mj.modalities.compare_side_information(named, params, tasks, key)
    by_name = {"picture only": (common.percent(picture_only), [0.0, 0.0])}
    for control, metrics in controls.items():
        per_task = metrics["accuracy"].per_task
        less = common.percent(per_task - picture_only)
        by_name[f"name, {control}"] = (common.percent(per_task), less)
    print("\nThe name at one shot, and the paired difference to the picture only")
    for row, (accuracy, less) in by_name.items():
        print(f"{row:<18} {common.cell(accuracy)}   {common.difference(less)}")

    # A modality is missing: in every query, or in a growing share of the shots.
    late = mj.query_loss(mj.modalities.modal_prototypes(encoder, config.ways), late_loss)
    tasks = features_of(params, draw("test", 5, 4))
    keys = jax.random.split(key, config.tasks)

    def without(rate, asked, task, key):
        """The task with modalities dropped from its shots, and those asked for in its queries."""
        x = mj.modalities.drop_modalities(task.support.x, rate, key)
        support = task.support._replace(x=x)
        return task._replace(support=support, query=restrict(task.query, asked))

    @jax.jit
    def late_accuracy(tasks):
        return mj.evaluate(late, params, tasks, key)["accuracy"].per_task

    def percent_without(rate, asked):
        changed = jax.vmap(functools.partial(without, rate, asked))(tasks, keys)
        return common.percent(late_accuracy(changed))

    asked_for = {}
    for asked in (["image", "outline"], ["outline"], ["image"], []):
        asked_for[" + ".join(asked) or "nothing"] = percent_without(0.0, asked)
    in_the_shots = {rate: percent_without(rate, ["image", "outline"]) for rate in config.rates}
    missing = {"asked for": asked_for, "rate in the shots": in_the_shots}
    print("\n5 shots, late fusion")
    for case, values in missing.items():
        cells = [f"{name} {common.cell(value)}" for name, value in values.items()]
        print(f"{case}: {', '.join(cells)}")

    # The report.
    took = time.perf_counter() - started

    def by_shots(make):
        """{"1 shot": what `make` makes of its ruler, ...}."""
        return {common.shots_label(shots): make(ruler) for shots, ruler in rulers.items()}

    def accuracies(ruler):
        return {row: common.percent(found.per_task) for row, found in ruler.accuracy.items()}

    def learned_minus_best(ruler):
        return common.percent(ruler.against("learned", ruler.best_single).per_task)

    report = {
        **common.header(),
        "seconds": took,
        "tasks": config.tasks,
        "digest": split.digest,
        "classes": [part.classes for part in parts.values()],
        "ruler": by_shots(accuracies),
        "learned minus best single": {
            shots: learned_minus_best(ruler) for shots, ruler in rulers.items()
        },
        "best single": {shots: ruler.best_single for shots, ruler in rulers.items()},
        "name": by_name,
        "missing": missing,
    }
    common.finish(out, "modalities", report, plot)


def plot(report, path):
    """Five letters, then picture and outline, the name, and accuracy with modalities missing."""
    figure = plt.figure(figsize=(14, 4.6))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.2))
    letters = mj.data.glyph_modalities()
    panels = left.subplots(5, 3, width_ratios=(1, 1, 1.8))
    shown = np.linspace(0, letters.classes - 1, 5).astype(int)
    for (image, outline, text), label in zip(panels, shown, strict=True):
        row = int(letters.start[label])
        common.draw_image(image, letters.x.value["image"][row])
        common.draw_strokes(outline, letters.x.value["outline"][row])
        name = textwrap.fill(mj.data.glyph_words(letters.names[label]), 20)
        text.text(0, 0.5, name, va="center", fontsize=7.5)
        text.axis("off")
    for axes, title in zip(panels[0], ("picture", "outline", "name"), strict=True):
        axes.set_title(title, fontsize=9)

    first, second, third = right.subplots(1, 3)
    by_shots = {label.split()[0]: rows for label, rows in report["ruler"].items()}
    chance = 1 / Config().ways
    common.draw_accuracies(first, by_shots, title="Picture and outline")
    first.set_xlabel(f"accuracy, % (chance: {100 * chance:.0f} %)")
    by_name = {row: accuracy for row, (accuracy, _) in report["name"].items()}
    common.draw_accuracies(second, {"1": by_name}, title="The name, 1 shot", chance=chance)
    missing = report["missing"]
    percents = [100 * float(rate) for rate in missing["rate in the shots"]]
    means, halves = zip(*missing["rate in the shots"].values(), strict=True)
    mj.plots.curves(
        third,
        {"late fusion, 5 shots": (percents, means, halves)},
        xlabel="dropped from the shots, %",
        ylabel="accuracy, %",
        title="When modalities are missing",
    )
    for name, colour in (("image", "C1"), ("outline", "C2")):
        accuracy, half = missing["asked for"][name]
        third.axhline(accuracy, color=colour, linestyle=":", label=f"queries with {name} only")
        third.axhspan(accuracy - half, accuracy + half, color=colour, alpha=0.12, linewidth=0)
    third.legend(loc="lower left")
    common.save(figure, path, common.OF_ONE_NET)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
