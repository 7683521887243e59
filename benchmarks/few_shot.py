"""The algorithms of `metajax.algorithms` by name, on the same tasks: 5-way 1-shot characters.

Every learner has the same net, is trained for the same time on tasks of the training characters,
and is tested on the same tasks of characters never seen. Reptile is trained on ten shots and tested
with more inner steps, as in its paper; CAVIA has a layer more, which its context modulates. Beside
each stand its controls: the net before training, the nearest mean of raw pixels, and features that
were pretrained on the union of all training characters, with the nearest mean. Rows are added to
benchmarks/results/few_shot.json or few_shot_glyphs.json, so that the algorithms can be run a few at
a time.

METAJAX_DATA=folder python benchmarks/few_shot.py
METAJAX_DATA=folder python benchmarks/few_shot.py --algorithms maml protonets
python benchmarks/few_shot.py --glyphs --algorithms maml protonets
METAJAX_DATA=folder python benchmarks/few_shot.py --tiny --out /tmp/results    # only that it runs
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms
from metajax.algorithms import in_part

WAYS, SHOTS = 5, 1
TRAINING_QUERIES = 5  # of each class
TASKS = 16  # of an outer step
SIZES = {"train": 1100, "validation": 100, "test": 423}  # characters
CONTEXT = 100  # numbers that CAVIA adapts

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--algorithms", nargs="+", help="all, where none is named")
parser.add_argument("--seconds", type=float, default=300, help="training time of each")
parser.add_argument("--tests", type=int, default=600)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--glyphs", action="store_true", help="printed letters; no data file")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Row(NamedTuple):
    """An algorithm and how it is trained.

    Attributes:
        make: width -> Learner.
        rate: step size of the outer loop.
        optimizer: of the outer loop, a function of the step size.
        shots: of each class in training.
        test: width -> the Learner that is tested with what was learned; None is that of training.
    """

    make: Callable
    rate: float = 3e-3
    optimizer: Callable = optax.adam
    shots: int = SHOTS
    test: Callable | None = None


def conv4(width, outputs=WAYS, channels=1):
    """The net of every row."""
    return mj.nets.Conv4(outputs, channels=channels, width=width, rngs=nnx.Rngs(0))


def mlp(inputs, outputs, width=64):
    """A second net, of algorithms that have one."""
    return mj.nets.MLP(inputs, (width,), outputs, rngs=nnx.Rngs(1))


class InContext(nnx.Module):
    """The net of CAVIA: a layer on the features is scaled and shifted by the context.

    The context is constant over the image, so a norm would remove it if a convolution read it.
    """

    def __init__(self, width, hidden=128):
        rngs = nnx.Rngs(0)
        self.body = conv4(width)
        self.modulation = nnx.Linear(CONTEXT, 2 * hidden, use_bias=False, rngs=rngs)
        self.hidden = nnx.Linear(width, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, WAYS, rngs=rngs)

    def __call__(self, x, reference=None):
        """[n, 28, 28, 1 + context] -> [n, ways]."""
        features = self.body.embed(x[..., :1], reference)
        scale, shift = jnp.split(self.modulation(x[:, 0, 0, 1:]), 2, axis=1)
        return self.head(nnx.relu(self.hidden(features) * (1 + scale) + shift))


class AttentionReader(nnx.Module):
    """The reader of SNAIL: what is attended to is put beside the features, as in the paper.

    Queries and keys are linear in the features alone. A transformer whose tokens mix features and
    labels first stayed near chance for the five minutes.
    """

    def __init__(self, width, ways, rngs):
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width + ways, width, rngs=rngs)
        self.hidden = nnx.Linear(2 * width, width, rngs=rngs)
        self.head = nnx.Linear(width, ways, rngs=rngs)

    def read(self, x, y, weight):
        """Keys and values of features [n, width] with labels [n, ways]."""
        values = self.value(jnp.concatenate([x, y], axis=1))
        return {"keys": self.key(x), "values": values, "valid": weight > 0}

    def predict(self, x, context):
        """Logits [n, ways] of features [n, width]."""
        scores = self.query(x) @ context["keys"].T / context["keys"].shape[1] ** 0.5
        share = jax.nn.softmax(jnp.where(context["valid"][None], scores, -1e9))
        found = jnp.concatenate([x, share @ context["values"]], axis=1)
        return self.head(nnx.relu(self.hidden(found)))


def by_descent(recipe, **options):
    """An algorithm that descends, with one step of size 1 where nothing else is said."""
    options = {"inner_rate": 1.0, "inner_steps": 1} | options
    return Row(lambda width: recipe(conv4(width), **options))


def reptile(width, steps=5, batch=10):
    """Reptile with the numbers of its paper: 5 steps on 10 images each, and more in the test."""
    return algorithms.reptile(conv4(width), inner_rate=1e-3, inner_steps=steps, batch=batch)


def by_features(recipe, **options):
    """An algorithm that writes a head for the features of the net."""
    return Row(lambda width: recipe(conv4(width), WAYS, **options))


ALGORITHMS = {
    "maml": by_descent(algorithms.maml),
    "fomaml": by_descent(algorithms.fomaml),
    "anil": by_descent(algorithms.anil),
    "boil": by_descent(algorithms.boil),
    "meta_sgd": Row(lambda width: algorithms.meta_sgd(conv4(width), initial_rate=1.0)),
    "maml_plus_plus": Row(
        lambda width: algorithms.maml_plus_plus(
            conv4(width), initial_rate=0.5, inner_steps=3, multi_step_until=300, first_order_until=0
        )
    ),
    "meta_curvature": by_descent(algorithms.meta_curvature),
    "alfa": Row(lambda width: algorithms.alfa(conv4(width), initial_rate=0.5, inner_steps=3)),
    "mt_net": by_descent(algorithms.mt_net),
    "t_net": by_descent(algorithms.t_net),
    "warp_grad": Row(
        lambda width: algorithms.warp_grad(
            conv4(width), in_part("head"), inner_rate=0.5, inner_steps=2
        )
    ),
    "ml3": Row(lambda width: algorithms.ml3(conv4(width), mlp(3, 1, 40), inner_rate=1.0)),
    "low_rank_maml": by_descent(algorithms.low_rank_maml, inner_steps=3),
    "reptile": Row(
        reptile,
        rate=1.0,
        optimizer=optax.sgd,
        shots=10,
        test=functools.partial(reptile, steps=50, batch=None),
    ),
    "imaml": by_descent(algorithms.imaml, inner_rate=0.5, inner_steps=8, proximity=0.5),
    "cavia": Row(
        lambda width: algorithms.cavia(
            InContext(width),
            context=CONTEXT,
            loss=mj.losses.cross_entropy,
            inner_rate=1.0,
            inner_steps=2,
        )
    ),
    "protonets": by_features(algorithms.protonets),
    "matching_nets": by_features(algorithms.matching_nets),
    "gaussian_protonets": Row(
        lambda width: algorithms.gaussian_protonets(
            mj.nets.functional(conv4(width, outputs=2 * width)), WAYS, entry="prototypes"
        )
    ),
    "relation_nets": Row(
        lambda width: algorithms.relation_nets(conv4(width), WAYS, mlp(2 * width, 1))
    ),
    "hypernetwork_head": Row(
        lambda width: algorithms.hypernetwork_head(conv4(width), WAYS, mlp(width, width + 1))
    ),
    "tadam": Row(
        lambda width: algorithms.tadam(
            conv4(width),
            WAYS,
            lambda size: mj.nets.DeepSets(width, size, width=64, rngs=nnx.Rngs(1)),
        )
    ),
    "simple_cnaps": by_features(algorithms.simple_cnaps),
    "dkt": by_features(algorithms.dkt),
    "r2d2": by_features(algorithms.r2d2),
    "metaopt_net": by_features(algorithms.metaopt_net),
    "proto_maml": by_features(algorithms.proto_maml, inner_rate=0.1, inner_steps=1),
    "label_propagation": by_features(algorithms.label_propagation),
    "leo": Row(lambda width: algorithms.leo(conv4(width), WAYS, width)),
    "meta_net": Row(lambda width: algorithms.meta_net(conv4(width), WAYS, mlp(2, 1, 20))),
    "snail": Row(
        lambda width: algorithms.snail(
            conv4(width),
            WAYS,
            AttentionReader(width, WAYS, nnx.Rngs(1)),
        )
    ),
    "soft_kmeans_protonets": Row(
        lambda width: algorithms.transductive(algorithms.soft_kmeans_protonets(conv4(width), WAYS))
    ),
}
"""{name: how it is made and trained}. Step sizes are of the mean loss, and were not searched."""


def omniglot():
    """{part: characters}, with quarter turns as classes of their own, and the split."""
    characters = mj.data.omniglot()
    split = mj.data.draw_split(characters.names, SIZES, seed=0)
    select = lambda part: mj.data.rotated(mj.data.select_part(characters, split, part))
    return {part: select(part) for part in ("train", "test")}, split


def glyphs():
    """{part: letters} of printed scripts, Latin ones to train, and the split."""
    letters = mj.data.glyphs()
    split = mj.data.split_scripts(
        letters, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
    )
    return {part: mj.data.select_part(letters, split, part) for part in ("train", "test")}, split


DATA = {"few_shot": (omniglot, 15), "few_shot_glyphs": (glyphs, 7)}
"""{result file: (what makes its parts, queries of each class in the test)}."""


def trained(learner, sample, source, optimizer, seconds, tasks_at_once=4):
    """(params, steps, seconds) after training for so many seconds."""
    outer = mj.outer_loop(learner.task_loss, optimizer, tasks_at_once=tasks_at_once)
    state, records = mj.training.fit(
        outer,
        outer.init(learner.params),
        sample,
        source,
        jax.random.key(0),
        steps=10**6,
        seconds=seconds,
        fuse=5,
        every=100,
    )
    return state.params, int(state.step), records[-1]["seconds"] if records else seconds


def pretrained(options, source):
    """Features of a net trained on the union of all classes, with the nearest mean, and steps."""
    union = algorithms.pretraining(conv4(options.width, outputs=source.classes))
    sample = mj.data.meta_batch(mj.data.batches(128), tasks=1)
    params, steps, _ = trained(
        union, sample, source, optax.adam(3e-3), options.seconds, tasks_at_once=1
    )
    nearest = algorithms.fine_tuning(conv4(options.width), WAYS, steps=0)
    return algorithms.with_pretrained_body(nearest, params), steps


def raw_pixels():
    """The nearest mean of the images themselves."""
    pixels, nothing = mj.nets.from_function(lambda params, x: x.reshape(len(x), -1))
    return algorithms.protonets((pixels, nothing), WAYS)


def measured(learner, params, tests):
    """Accuracy of each test task in per cent."""
    score = jax.jit(functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=4))
    return 100 * score(params, tests, jax.random.key(1))["accuracy"].per_task


def cell(per_task):
    """[mean, half of the 95 % interval]."""
    summary = mj.summarize(per_task)
    return [float(summary.mean), float(summary.interval)]


def row_of(name, learner, params, tests, baseline, steps, seconds):
    """The row of a trained learner."""
    accuracy = measured(learner, params, tests)
    return {
        "algorithm": name,
        "accuracy": cell(accuracy),
        "minus pretrained": cell(accuracy - baseline),
        "untrained": cell(measured(learner, learner.params, tests)),
        "steps": steps,
        "seconds": seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }


def main(options):
    names = options.algorithms or list(ALGORITHMS)
    if unknown := set(names) - set(ALGORITHMS):
        raise SystemExit(f"There is no {sorted(unknown)}; the names are {list(ALGORITHMS)}.")
    if options.tiny:
        options.seconds, options.tests, options.width = 0.1, 4, 4
        names = options.algorithms or ["maml", "protonets"]
    result = "few_shot_glyphs" if options.glyphs else "few_shot"
    make_parts, queries = DATA[result]
    parts, split = make_parts()
    draw = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, queries), options.tests)
    tests = jax.jit(draw)(parts["test"], jax.random.key(2))

    path = options.out / f"{result}.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    settings = {
        "split": split.name,
        "digest": split.digest,
        "tests": options.tests,
        "queries": queries,
        "width": options.width,
        "training_seconds": options.seconds,
    }
    if {key: report.get(key) for key in settings} != settings:
        nearest, steps = pretrained(options, parts["train"])
        accuracy = measured(nearest, nearest.params, tests)
        report = settings | {
            "pretrained": {"accuracy": cell(accuracy), "steps": steps},
            "pretrained of each task": [round(float(one), 4) for one in accuracy],
            "raw pixels": cell(measured(raw_pixels(), mj.Params({}, {}), tests)),
            "rows": {},
        }
        print(report["pretrained"], report["raw pixels"], flush=True)
    baseline = jnp.array(report["pretrained of each task"])
    for name in names:
        row = ALGORITHMS[name]
        learner = row.make(options.width)
        sample = mj.data.meta_batch(mj.data.episodes(WAYS, row.shots, TRAINING_QUERIES), TASKS)
        params, steps, seconds = trained(
            learner, sample, parts["train"], row.optimizer(row.rate), options.seconds
        )
        tested = learner if row.test is None else row.test(options.width)
        found = row_of(name, tested, params, tests, baseline, steps, seconds)
        report["rows"][name] = found | harness.brief_header()
        print(found, flush=True)
        harness.save(options.out, result, report)


if __name__ == "__main__":
    main(parser.parse_args())
