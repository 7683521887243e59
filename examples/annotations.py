"""Do annotations of the training pictures help? Chinese characters never seen, sorted by radical.

Reads `hanzi.npz` from the folder that METAJAX_DATA names. ProtoNets learn from 15 radicals with 20 characters each. The
annotated ones also learn to tell, from the same features, how a character is put together (left and right, or top and
bottom, where that is known) and how many strokes it has; at test time nobody tells or asks. The control has the
annotations of other characters. How much the auxiliary losses count is chosen on validation radicals; intervals are
over splits of the radicals, and paired.

    METAJAX_DATA=... python examples/annotations.py --out .
"""

import argparse
import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.modalities import annotated, remove_modalities

WAYS, SHOTS, QUERIES, WIDTH, EACH, TASKS = 5, (1, 5), 10, 32, 20, 500
SIZES = (15, 20, 59)  # radicals to train, to choose, and to test
WEIGHTS = (0.1, 0.5)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=400, help="steps of training for each net")
parser.add_argument("--splits", type=int, default=6, help="splits of the radicals")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of annotations.json"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
started = time.perf_counter()

# Each character's picture and annotations, class by class as `hanzi` has them.
characters, table = mj.data.hanzi(), mj.data.hanzi_characters()
radicals = np.array(table["radical"])
rows = np.concatenate([np.flatnonzero(radicals == name) for name in characters.names])
pictures = np.asarray(characters.x.value["image"])
assert np.array_equal(pictures, mj.data.hanzi_pictures()[rows])
first = np.array([table["decomposition"][row][:1] for row in rows])
kinds = sorted(
    kind for kind in set(first) if "⿰" <= kind <= "⿻"
)  # Unicode's ideographic description characters
structure = np.array([kinds.index(kind) if kind in kinds else 0 for kind in first], np.int32)
strokes = np.log(np.asarray(characters.x.value["stroke"])[:, :, 3].sum(axis=1))
told = np.isin(first, kinds)
print(f"{len(rows)} characters, the composition of {told.mean():.0%} is known: {', '.join(kinds)}")


def dataset_of(split, part):
    """EACH characters of each of a part's radicals, so that all splits are of one shape; and these radicals."""
    rng = np.random.default_rng(split)
    order = rng.permutation(characters.classes)
    chosen = order[sum(SIZES[:part]) : sum(SIZES[: part + 1])]
    start, count = np.asarray(characters.start), np.asarray(characters.count)
    row = np.concatenate([start[c] + rng.permutation(count[c])[:EACH] for c in chosen])
    value = {
        "image": pictures[row],
        "structure": structure[row],
        "strokes": (strokes - strokes.mean())[row],
    }
    present = {
        "image": np.ones(len(row), bool),
        "structure": told[row],
        "strokes": np.ones(len(row), bool),
    }
    data = mj.data.dataset(
        mj.data.as_modalities(value, present), np.repeat(np.arange(len(chosen)), EACH)
    )
    return data, [characters.names[c] for c in chosen]


def permuted(data, split):
    """The same pictures with the annotations of others."""
    order = np.random.default_rng(100 + split).permutation(len(data.y))
    mix = lambda part: {name: part[name] if name == "image" else part[name][order] for name in part}
    return mj.data.dataset(mj.Modalities(mix(data.x.value), mix(data.x.present)), data.y)


HEADS = {"structure": len(kinds), "strokes": 1}
net = lambda key: mj.nets.functional(
    mj.nets.Conv4(1, width=WIDTH, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(key))
)
apply, _ = net(0)


def embed(params, x, key=None, *, reference=None):
    """The picture alone, whatever else there is; [n, WIDTH]."""
    return apply(
        mj.Params(params.slow, {}), x.value["image"], key, reference=reference, method="embed"
    )


plain = mj.losses.cross_entropy(mj.linear_head(embed))
blind = lambda params, x, key=None, **given: embed(
    params, remove_modalities(x, HEADS), key, **given
)


def learn(data, weight, key):
    """ProtoNets whose loss has that much of the auxiliary losses; all of a run is one compiled function."""
    body_key, head_key, run_key = jax.random.split(key, 3)
    fast = {
        name: {
            "kernel": jax.random.normal(head_key, (WIDTH, size)) / WIDTH**0.5,
            "bias": jnp.zeros(size),
        }
        for name, size in HEADS.items()
    }
    # The auxiliary heads stand beside the one that the class means write.
    heads = {name: mj.linear_head(embed, head=name) for name in HEADS}
    loss = annotated(plain, heads, weight=dict.fromkeys(HEADS, weight))
    sample = mj.data.meta_batch(mj.data.episodes(10, 1, 5), tasks=1)
    outer = mj.outer_loop(
        mj.query_loss(mj.prototypes(blind, 10), loss),
        optax.adam(optax.cosine_decay_schedule(3e-3, options.steps)),
    )

    def step(state, number):
        sample_key, step_key = jax.random.split(jax.random.fold_in(run_key, number))
        state, info = outer.step(state, sample(data, sample_key), step_key)
        return state, info.metrics

    state, metrics = jax.lax.scan(
        step, outer.init(mj.Params(fast, net(body_key)[1].fast)), jnp.arange(options.steps)
    )
    return state.params, jax.tree.map(lambda leaf: leaf[-50:].mean(), metrics)


def judge(params, data, key):
    """{shots: mean accuracy over tasks}, by the pictures alone; each is encoded once, for GroupNorm knows no batch."""
    features = jax.lax.map(
        lambda image: embed(params, seen(image)), data.x.value["image"].reshape(-1, 20, 32, 32, 1)
    )
    encoded = dataclasses.replace(data, x=features.reshape(-1, WIDTH))
    known = lambda params, x, key=None, *, reference=None: x
    accuracy = {}
    for shots in SHOTS:
        tasks = mj.data.meta_batch(mj.data.episodes(WAYS, shots, QUERIES), TASKS)(encoded, key)
        task_loss = mj.query_loss(
            mj.prototypes(known, WAYS), mj.losses.cross_entropy(mj.linear_head(known))
        )
        accuracy[shots] = mj.evaluate(task_loss, params, tasks, key)["accuracy"].mean
    return accuracy


def seen(image):
    return mj.Modalities({"image": image / 255.0}, {"image": jnp.ones(len(image), bool)})


learn, judge, key = jax.jit(learn), jax.jit(judge), jax.random.key(0)
accuracy = {name: {shots: [] for shots in SHOTS} for name in ("without", "annotated", "permuted")}
chosen, learned, digests = [], [], []
for split in range(options.splits):
    (train, validation, test), names = zip(
        *(dataset_of(split, part) for part in range(3)), strict=True
    )
    parts = dict(zip(("train", "validation", "test"), names, strict=True))
    digests.append(mj.data.class_split("radicals", parts).digest)
    split_key = jax.random.fold_in(key, split)
    tried = {weight: learn(train, weight, split_key) for weight in (0.0, *WEIGHTS)}
    scores = {
        weight: sum(judge(tried[weight][0], validation, split_key).values()) for weight in WEIGHTS
    }
    best = max(scores, key=scores.get)
    nets = {
        "without": tried[0.0],
        "annotated": tried[best],
        "permuted": learn(permuted(train, split), best, split_key),
    }
    for name, (params, _) in nets.items():
        for shots, mean in judge(params, test, split_key).items():
            accuracy[name][shots].append(float(mean))
    chosen.append(best)
    learned.append({name: float(value) for name, value in tried[best][1].items() if "/" in name})
    now = ", ".join(f"{name} {100 * accuracy[name][1][-1]:.1f}" for name in nets)
    print(
        f"split {split}, {time.perf_counter() - started:.0f} s so far: weight {best}, 1 shot: {now}",
        flush=True,
    )


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


results = []
for shots in SHOTS:
    row = {"shots": shots} | {name: summary(accuracy[name][shots]) for name in accuracy}
    for name in ("annotated", "permuted"):
        row[f"{name} minus without"] = summary(
            np.subtract(accuracy[name][shots], accuracy["without"][shots])
        )
    row["annotated minus permuted"] = summary(
        np.subtract(accuracy["annotated"][shots], accuracy["permuted"][shots])
    )
    results.append(row)
    print(
        f"{shots} shots: "
        + "; ".join(f"{k} {v[0]:.1f} ± {v[1]:.1f}" for k, v in row.items() if k != "shots")
    )
aids = {name: float(np.mean([one[name] for one in learned])) for name in learned[0]}
print(
    f"weights chosen: {chosen}; at the end of training: "
    + ", ".join(f"{k} {v:.2f}" for k, v in aids.items())
)
took = time.perf_counter() - started
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "steps": options.steps,
}
report |= {
    "splits": options.splits,
    "digests": digests,
    "tasks": TASKS,
    "radicals": SIZES,
    "weights": chosen,
    "auxiliary": aids,
}
(options.out / "annotations.json").write_text(
    json.dumps(report | {"rows": results}, indent=1) + "\n"
)
print(f"{took:.0f} s; see {options.out / 'annotations.json'}.")
