"""A ladder across domains: trained on one kind of tasks, tested on kinds ever further from it.

Images: trained on printed letters or on Omniglot, tested on unseen classes of the same, of the
other, on digits and on Chinese characters by radical. Texts: trained on seven domains of CLINC150,
tested on intents of the three others, drawn from all three or within a single one. The row to beat
is the nearest class mean of features that were pretrained on the union of the training classes
(images), or of a frozen sentence encoder (texts). All are tested on the same tasks, 5-way 1-shot.

Beside each kind of tasks stands its diversity coefficient: the mean cosine distance between the
Task2Vec embeddings of two of its tasks (Miranda et al. 2023, arXiv 2306.13841). The embedding of a
task is the diagonal of the Fisher information of a fixed net on the task, averaged over each
filter; the head is that of class means. That net is trained on the characters of Omniglot, and its
norms are of each image alone. Writes benchmarks/results/ladder.json.

METAJAX_DATA=folder python benchmarks/ladder.py
METAJAX_DATA=folder python benchmarks/ladder.py --tiny --out /tmp/results    # only that it runs
"""

import argparse
import functools
import pathlib
import time

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

WAYS, SHOTS = 5, 1
SIZES = {"train": 1100, "validation": 100, "test": 423}  # characters
DOMAINS = {"train": 7, "test": 3}
KEY = jax.random.key(0)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=2000, help="outer steps of each training")
parser.add_argument("--tests", type=int, default=600)
parser.add_argument("--embedded", type=int, default=60, help="tasks of a diversity coefficient")
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def images():
    """({kind: training classes}, {kind: test classes}, {kind: (split, digest)})."""
    characters = mj.data.omniglot()
    of_characters = mj.data.draw_split(characters.names, SIZES, seed=0)
    letters = mj.data.glyphs()
    of_letters = mj.data.split_scripts(
        letters, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
    )
    train = {
        "letters": mj.data.select_part(letters, of_letters, "train"),
        "Omniglot": mj.data.rotated(mj.data.select_part(characters, of_characters, "train")),
    }
    test = {
        "letters": mj.data.select_part(letters, of_letters, "test"),
        "Omniglot": mj.data.rotated(mj.data.select_part(characters, of_characters, "test")),
        "digits": mj.data.written_digits(),
        "Chinese characters": chinese(),
    }
    splits = {
        "letters": (of_letters.name, of_letters.digest),
        "Omniglot": (of_characters.name, of_characters.digest),
    }
    return train, test, splits


def chinese():
    """Chinese characters in 28x28, a class for each radical."""
    source = mj.data.hanzi()
    image = source.x.value["image"].astype(np.float32)
    small = jax.image.resize(image, (len(image), 28, 28, 1), "linear")
    return mj.data.dataset(
        np.asarray(small.round()).astype(np.uint8), source.y, names=source.names, scale=255
    )


def train(learner, sample, source, steps, rate):
    """The params after so many steps."""
    schedule = optax.cosine_decay_schedule(rate, steps)
    outer = mj.outer_loop(learner.task_loss, optax.adam(schedule), tasks_at_once=1)
    fuse = min(5, steps)
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        sample,
        source,
        KEY,
        steps=steps,
        fuse=fuse,
        every=steps // fuse * fuse,
    )
    return state.params


def pretrained(net, source, steps):
    """The nearest class mean of features that were trained on the union of these classes.

    Args:
        net: (outputs, rngs=...) -> Flax module with `embed` and `head`.
        source: the classes.
        steps: of training.
    """
    union = algorithms.pretraining(net(source.classes, rngs=nnx.Rngs(0)))
    batches = mj.data.meta_batch(mj.data.batches(128), tasks=1)
    params = train(union, batches, source, steps, 3e-3)
    nearest = algorithms.fine_tuning(net(WAYS, rngs=nnx.Rngs(0)), WAYS, steps=0)
    return algorithms.with_pretrained_body(nearest, params)


def image_learners(source, options):
    """{name: (learner, params)} of nets that were trained on these classes."""
    net = functools.partial(mj.nets.Conv4, width=options.width)
    nearest = pretrained(net, source, 2 * options.steps)
    found = {"frozen features": (nearest, nearest.params)}
    episodes = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, 5), tasks=16)
    made = {
        "ProtoNets": algorithms.protonets(net(WAYS, rngs=nnx.Rngs(0)), WAYS),
        "MAML": algorithms.maml(net(WAYS, rngs=nnx.Rngs(0)), inner_rate=1.0),
    }
    for name, learner in made.items():
        found[name] = (learner, train(learner, episodes, source, options.steps, 3e-3))
    return found


def raw_pixels():
    """The nearest mean of the images themselves, which nothing trains."""
    pixels, nothing = mj.nets.from_function(lambda params, x: x.reshape(len(x), -1))
    learner = algorithms.protonets((pixels, nothing), WAYS)
    return learner, learner.params


def texts():
    """(training intents, test intents, their sentence features as data sets, split)."""
    sentences, names = mj.data.clinc150_texts("train")
    classes, labels = np.unique(names, return_inverse=True)
    vectors = np.asarray(mj.nets.sentence_features(sentences))
    source = mj.data.dataset(vectors, labels, names=classes.tolist())
    split = mj.data.draw_split(source.names, DOMAINS, seed=0, group=mj.data.group_of)
    parts = [mj.data.select_part(source, split, part) for part in DOMAINS]
    return *parts, (split.name, split.digest)


def text_learners(source, options):
    """{name: (learner, params)} on sentence features, which stay as they are."""
    width = source.x.shape[1]
    net = lambda: mj.nets.MLP(width, (4 * options.width,), width, rngs=nnx.Rngs(0))
    plain, nothing = mj.nets.from_function(lambda params, x: x)
    frozen = algorithms.protonets((plain, nothing), WAYS)
    found = {"frozen features": (frozen, frozen.params)}
    learner = algorithms.protonets(net(), WAYS)
    episodes = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, 5), tasks=16)
    found["ProtoNets"] = (learner, train(learner, episodes, source, options.steps, 1e-3))
    return found


def accuracies(learner, params, tasks):
    """Accuracy of each task in per cent."""
    score = functools.partial(mj.evaluate, learner.task_loss, tasks_at_once=1)
    return 100 * jax.jit(score)(params, tasks, KEY)["accuracy"].per_task


def cell(values):
    """[mean, half of its 95 % interval]."""
    summary = mj.summarize(values)
    return [float(summary.mean), float(summary.interval)]


def compared(learners, tasks):
    """{learner: accuracy, and its difference from frozen features} on the same tasks."""
    per_task = {name: accuracies(*pair, tasks) for name, pair in learners.items()}
    frozen = per_task["frozen features"]
    return {
        name: {"accuracy": cell(found), "minus frozen features": cell(found - frozen)}
        for name, found in per_task.items()
    }


def diversity(probe, tasks):
    """The mean cosine distance of the embeddings of two tasks, over all pairs."""
    vectors = jax.jit(functools.partial(jax.lax.map, functools.partial(embedding, probe)))(tasks)
    vectors /= jnp.linalg.norm(vectors, axis=1, keepdims=True)
    number = len(vectors)
    cosine = vectors @ vectors.T
    return float(1 - (cosine.sum() - number) / (number * (number - 1)))


def embedding(probe, task):
    """The Fisher information of the weights below the head, a mean for each filter.

    Labels are those that the net gives itself: every class counts with its probability.
    """
    examples = jax.tree.map(lambda *rows: jnp.concatenate(rows), task.support, task.query)
    adapted = probe.adaptation.adapt(probe.params, examples, KEY)
    body = {name: part for name, part in adapted.fast.items() if name != "head"}

    def log_probabilities(body, x):
        changed = adapted._replace(fast={**adapted.fast, **body})
        return jax.nn.log_softmax(probe.apply(changed, x[None])[0])

    def of_example(x):
        """Σₖ p(k) (∂ log p(k))² of one example."""
        probability = jnp.exp(log_probabilities(body, x))
        slopes = jax.jacrev(log_probabilities)(body, x)
        squares = lambda slope: jnp.tensordot(probability, slope**2, axes=1)
        return jax.tree.map(squares, slopes)

    fisher = jax.tree.map(lambda leaf: leaf.mean(axis=0), jax.lax.map(of_example, examples.x))
    filters = [leaf.reshape(-1, leaf.shape[-1]).mean(axis=0) for leaf in jax.tree.leaves(fisher)]
    return jnp.concatenate(filters)


def main(options):
    if options.tiny:
        options.steps, options.tests, options.embedded, options.width = 2, 4, 3, 8
    started = time.perf_counter()
    sources, targets, splits = images()
    draw = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, 10), options.tests)
    tests = {name: jax.jit(draw)(part, jax.random.key(2)) for name, part in targets.items()}
    rows = []
    pixels = raw_pixels()
    for trained_on, source in sources.items():
        learners = image_learners(source, options) | {"raw pixels": pixels}
        for tested_on, tasks in tests.items():
            rows.append(
                {"trained on": trained_on, "tested on": tested_on, **compared(learners, tasks)}
            )
            print(rows[-1], flush=True)
    net = functools.partial(mj.nets.Conv4, width=options.width, norm=mj.nets.GroupNorm)
    probe = pretrained(net, sources["Omniglot"], options.steps)
    few = lambda tasks: jax.tree.map(lambda leaf: leaf[: options.embedded], tasks)
    coefficients = {name: diversity(probe, few(tasks)) for name, tasks in tests.items()}
    print(coefficients, flush=True)

    seen, unseen, split = texts()
    learners = text_learners(seen, options)
    splits["CLINC150"] = split
    kinds = {
        "three unseen domains": mj.data.episodes(WAYS, SHOTS, 10),
        "one unseen domain": mj.data.grouped_episodes(WAYS, SHOTS, 10),
    }
    for tested_on, sample in kinds.items():
        tasks = jax.jit(mj.data.meta_batch(sample, options.tests))(unseen, jax.random.key(2))
        row = {"trained on": "CLINC150", "tested on": tested_on, **compared(learners, tasks)}
        rows.append(row)
        print(rows[-1], flush=True)
    report = harness.header(
        seed=0,
        steps=options.steps,
        tests=options.tests,
        embedded=options.embedded,
        seconds=time.perf_counter() - started,
        splits={name: list(found) for name, found in splits.items()},
        digest=splits["Omniglot"][1],
        diversity=coefficients,
        rows=rows,
    )
    harness.save(options.out, "ladder", report)


if __name__ == "__main__":
    main(parser.parse_args())
