"""Do annotations of the training pictures help? Chinese characters never seen, sorted by radical.

Reads `hanzi.npz` from the folder that METAJAX_DATA names. ProtoNets learn from 15 radicals with 20
characters each. The annotated ones also learn to predict, from the same features, how a character
is composed (left and right, or top and bottom, where that is known) and how many strokes it has. At
test time there are no annotations, and they are not predicted. The control has the annotations of
other characters. How much the auxiliary losses count is chosen on validation radicals. Intervals
are over splits of the radicals, and differences are paired.

    METAJAX_DATA=... python examples/applications/annotations.py --out .
"""

import dataclasses
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

SIZES = {"train": 15, "validation": 20, "test": 59}  # radicals
EACH = 20  # characters of a radical, so that all splits have one shape


class Config(NamedTuple):
    """The settings of a run."""

    weights: tuple = (0.1, 0.5)  # of the auxiliary losses; one is chosen
    ways: int = 5
    shots: tuple = (1, 5)
    queries: int = 10  # of each class
    tasks: int = 500
    training_ways: int = 10
    training_queries: int = 5  # of each class; there is one shot
    width: int = 32  # channels of the net
    outer_rate: float = 3e-3
    last: int = 50  # steps at the end of training, whose auxiliary losses are reported
    steps: int = 400  # steps of training for each net
    splits: int = 6  # splits of the radicals


TINY = Config(steps=2, splits=2, tasks=4, width=8, weights=(0.1,))


def permuted(data, split):
    """The same pictures with the annotations of other characters."""
    order = np.random.default_rng(100 + split).permutation(len(data.y))

    def permute(values):
        return {name: value if name == "image" else value[order] for name, value in values.items()}

    x = mj.Modalities(permute(data.x.value), permute(data.x.present))
    return mj.data.dataset(x, data.y, scale=data.scale)


def main(config, out):
    """Trains with annotations, without, and with wrong ones, on every split of the radicals."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data: the picture and the annotations of each character, class by class as `hanzi` has them.
    characters = mj.data.hanzi()
    table = mj.data.hanzi_characters()
    radicals = np.array(table["radical"])
    rows = np.concatenate([np.flatnonzero(radicals == name) for name in characters.names])
    pictures = np.asarray(characters.x.value["image"])
    assert np.array_equal(pictures, mj.data.hanzi_pictures()[rows])

    # How a character is composed: the first sign of its decomposition, where it is one of Unicode's
    # ideographic description characters.
    first_sign = np.array([table["decomposition"][row][:1] for row in rows])
    kinds = sorted(sign for sign in set(first_sign) if "⿰" <= sign <= "⿻")
    known = np.isin(first_sign, kinds)
    structure = np.array(
        [kinds.index(sign) if sign in kinds else 0 for sign in first_sign], np.int32
    )
    stroke_starts = np.asarray(characters.x.value["stroke"])[:, :, 3]
    strokes = np.log(stroke_starts.sum(axis=1))
    strokes -= strokes.mean()
    print(
        f"{len(rows)} characters; "
        f"of {known.mean():.0%} the composition is known: {', '.join(kinds)}"
    )

    def draw(split, part):
        """EACH characters of each radical of a part as a data set, and the radicals' names."""
        rng = np.random.default_rng(split)
        order = rng.permutation(characters.classes)
        before = sum(SIZES[other] for other in list(SIZES)[: list(SIZES).index(part)])
        chosen = order[before : before + SIZES[part]]
        start = np.asarray(characters.start)
        count = np.asarray(characters.count)
        row = np.concatenate([start[c] + rng.permutation(count[c])[:EACH] for c in chosen])
        every = np.ones(len(row), bool)
        x = mj.data.as_modalities(
            {"image": pictures[row], "structure": structure[row], "strokes": strokes[row]},
            {"image": every, "structure": known[row], "strokes": every},
        )
        labels = np.repeat(np.arange(len(chosen)), EACH)
        names = [characters.names[c] for c in chosen]
        return mj.data.dataset(x, labels, scale={"image": 255}), names

    # The net: its features are slow. The auxiliary heads are learned, beside the head that the
    # class means write.
    HEADS = {"structure": len(kinds), "strokes": 1}  # {annotation: outputs of its head}

    def make_net(key):
        net = mj.nets.Conv4(1, width=config.width, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(key))
        return mj.nets.functional(net)

    apply, _ = make_net(0)

    def features_of_picture(params, x):
        """The features read the picture alone, whatever else x has: [n, config.width]."""
        return apply(mj.Params({}, params.slow), x.value["image"], method="embed")

    embed, _ = mj.nets.from_function(features_of_picture)

    def auxiliary_heads(key):
        """The start of the auxiliary heads."""
        heads = {}
        for name, outputs in HEADS.items():
            kernel = jax.random.normal(key, (config.width, outputs)) / config.width**0.5
            heads[name] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
        return heads

    @jax.jit
    def learn(data, weight, key):
        """ProtoNets whose loss has so much of the auxiliary losses.

        Returns:
            The params, and the mean of every metric over the last steps.
        """
        body_key, head_key, run_key = jax.random.split(key, 3)
        loss = mj.modalities.annotated(
            mj.losses.cross_entropy(mj.linear_head(embed)),
            {name: mj.linear_head(embed, entry=name) for name in HEADS},
            weight=dict.fromkeys(HEADS, weight),
        )
        task_loss = mj.query_loss(mj.prototypes(embed, config.training_ways), loss)
        optimizer = optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
        outer = mj.outer_loop(task_loss, optimizer)
        _, body = make_net(body_key)
        state, info = mj.training.scan(
            outer,
            outer.init(mj.Params(auxiliary_heads(head_key), body.fast)),
            mj.data.meta_batch(
                mj.data.episodes(config.training_ways, 1, config.training_queries), tasks=1
            ),
            data,
            run_key,
            steps=config.steps,
        )
        return state.params, jax.tree.map(lambda leaf: leaf[-config.last :].mean(), info.metrics)

    @jax.jit
    def score(params, data, key):
        """{shots: mean accuracy over tasks} by the pictures alone.

        GroupNorm normalises every picture by itself, so that each is encoded once.
        """

        def features(rows):
            return embed(params, mj.data.take_examples(data, rows))

        rows = jnp.arange(len(data.y)).reshape(-1, EACH)
        encoded = jax.lax.map(features, rows).reshape(-1, config.width)
        encoded = dataclasses.replace(data, x=encoded, scale=None)
        task_loss = mj.query_loss(
            mj.prototypes(mj.nets.identity_encoder, config.ways),
            mj.losses.cross_entropy(mj.linear_head()),
        )
        accuracy = {}
        for shots in config.shots:
            sample = mj.data.meta_batch(
                mj.data.episodes(config.ways, shots, config.queries), config.tasks
            )
            tasks = sample(encoded, key)
            accuracy[shots] = mj.evaluate(task_loss, params, tasks, key)["accuracy"].mean
        return accuracy

    accuracy = {}  # {learner: {shots: [accuracy of every split]}}
    weights = []  # the one that was chosen, for every split
    auxiliary = []  # metrics at the end of training, for every split
    digests = []
    for split in range(config.splits):
        data = {}
        names = {}
        for part in SIZES:
            data[part], names[part] = draw(split, part)
        digests.append(mj.data.class_split("radicals", names).digest)

        split_key = jax.random.fold_in(key, split)
        tried = {
            weight: learn(data["train"], weight, split_key) for weight in (0.0, *config.weights)
        }
        on_validation = {
            weight: sum(score(tried[weight][0], data["validation"], split_key).values())
            for weight in config.weights
        }
        best = max(on_validation, key=on_validation.get)
        learners = {
            "without": tried[0.0],
            "annotated": tried[best],
            "permuted": learn(permuted(data["train"], split), best, split_key),
        }
        for name, (params, _) in learners.items():
            for shots, mean in score(params, data["test"], split_key).items():
                accuracy.setdefault(name, {}).setdefault(shots, []).append(float(mean))
        weights.append(best)
        auxiliary.append(tried[best][1])

        seconds = time.perf_counter() - started
        now = ", ".join(
            f"{name} {100 * accuracy[name][config.shots[0]][-1]:.1f}" for name in learners
        )
        print(f"split {split}, {seconds:.0f} s so far: weight {best}, 1 shot: {now}", flush=True)

    # The table.
    pairs = (("annotated", "without"), ("permuted", "without"), ("annotated", "permuted"))
    results = []
    for shots in config.shots:
        row = {"shots": shots}
        row |= {name: common.percent(accuracy[name][shots]) for name in accuracy}
        print(f"{common.shots_label(shots)}:", end=" ")
        print("; ".join(f"{name} {common.cell(row[name])}" for name in accuracy))
        for first, second in pairs:
            less = common.percent(np.subtract(accuracy[first][shots], accuracy[second][shots]))
            row[f"{first} minus {second}"] = less
            print(f"    {first} minus {second}: {common.difference(less)}")
        results.append(row)
    # Metrics of an annotation have a name such as "strokes/loss".
    means = {
        name: float(np.mean([float(metrics[name]) for metrics in auxiliary]))
        for name in auxiliary[0]
        if "/" in name
    }
    print(f"Weights chosen: {weights}. At the end of training:", end=" ")
    print(", ".join(f"{name} {value:.2f}" for name, value in means.items()))
    took = time.perf_counter() - started
    report = {
        **common.header(),
        "seconds": took,
        "steps": config.steps,
        "splits": config.splits,
        "digests": digests,
        "tasks": config.tasks,
        "radicals": list(SIZES.values()),
        "weights": weights,
        "auxiliary": means,
        "rows": results,
    }
    report = common.write_report(out / "annotations.json", report)
    print(f"{took:.0f} s; see annotations.json in {out}.")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", "splits", description=__doc__)
