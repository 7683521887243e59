"""Few-shot clustering of classes never seen: unseen Omniglot characters and unseen intents.

A task has 10 classes with 15 examples each and no label. They are put into 10 clusters by k-means
(scikit-learn, 10 starts) and by clusters of equal size (`sinkhorn_kmeans`), on three kinds of
features: raw ones, those of a net pretrained to classify the union of all training classes, and
those of a net that learned from tasks (`centroid_networks`). Raw features of a text are the words
that it has, weighed by how rare they are. The score is the adjusted Rand index, whose chance is 0.
Writes benchmarks/results/clustering.json.

METAJAX_DATA=folder python benchmarks/clustering.py
METAJAX_DATA=folder python benchmarks/clustering.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import functools
import pathlib
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer

import metajax as mj
from metajax import algorithms, inner

WAYS, EXAMPLES = 10, 15  # of a test task
TRAINING_WAYS, TRAINING_QUERIES = 20, 5  # with one shot
CHARACTERS = {"train": 1100, "validation": 100, "test": 423}
INTENTS = {"train": 105, "test": 45}

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--seconds", type=float, default=150, help="training time of each net")
parser.add_argument("--tests", type=int, default=100)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Problem(NamedTuple):
    """Classes to learn from and classes to cluster.

    Attributes:
        train: data set of the training classes.
        test: data set of the test classes.
        make_net: number of outputs -> net with `embed` and `head`.
        digest: of the split.
    """

    train: mj.data.Dataset
    test: mj.data.Dataset
    make_net: object
    digest: str


def characters():
    """Omniglot's characters, upright."""
    source = mj.data.omniglot()
    split = mj.data.draw_split(source.names, CHARACTERS, seed=0)
    train, test = (mj.data.select_part(source, split, part) for part in ("train", "test"))
    make = lambda outputs: mj.nets.Conv4(outputs, width=64, rngs=nnx.Rngs(0))
    return Problem(train, test, make, split.digest)


def intents():
    """Intents of CLINC150, as rare words; a net with one hidden layer reads them."""
    parts = [mj.data.clinc150_texts(part) for part in ("val", "test")]
    texts = [text for part in parts for text in part[0]]
    names = [name for part in parts for name in part[1]]
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    x = np.asarray(words.todense(), np.float32)
    source = mj.data.dataset(x, names)
    split = mj.data.draw_split(source.names, INTENTS, seed=0)
    train, test = (mj.data.select_part(source, split, part) for part in ("train", "test"))
    make = lambda outputs: mj.nets.MLP(x.shape[1], (128,), outputs, rngs=nnx.Rngs(0))
    return Problem(train, test, make, split.digest)


PROBLEMS = {"Omniglot characters": characters, "CLINC150 intents": intents}


def trained(learner, sample, source, seconds):
    """The params after training for so many seconds."""
    outer = mj.outer_loop(learner.task_loss, optax.adam(2e-3))
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(sample, tasks=1),
        source,
        jax.random.key(0),
        steps=10**6,
        seconds=seconds,
        fuse=5,
        every=100,
    )
    return state.params


def features_of(problem, seconds):
    """{name: x -> features [n, d]}, of raw inputs and of both nets."""
    episodes = mj.data.episodes(TRAINING_WAYS, 1, TRAINING_QUERIES)
    union = algorithms.pretraining(problem.make_net(problem.train.classes))
    learned = algorithms.centroid_networks(problem.make_net(TRAINING_WAYS), TRAINING_WAYS)
    pretrained = trained(union, mj.data.batches(128), problem.train, seconds)
    clustered = trained(learned, episodes, problem.train, seconds)

    def embed(learner, params):
        return jax.jit(functools.partial(learner.apply, params, method="embed"))

    return {
        "raw": lambda x: x.reshape(len(x), -1),
        "pretrained": embed(union, pretrained),
        "learned from tasks": embed(learned, clustered),
    }


def k_means(features):
    """Clusters by scikit-learn, int[n]."""
    return KMeans(WAYS, n_init=10, random_state=0).fit_predict(np.asarray(features))


def equal_sizes(features):
    """Clusters of equal size, int[n]."""
    return inner.sinkhorn_kmeans(features, WAYS).share.argmax(axis=1)


CLUSTERINGS = {"k-means": k_means, "equal sizes": equal_sizes}


def measure(problem, options):
    """The rows of a problem: one for each kind of features and each clustering."""
    draw = mj.data.meta_batch(mj.data.episodes(WAYS, 1, EXAMPLES), options.tests)
    tests = jax.jit(draw)(problem.test, jax.random.key(1)).query
    rows = []
    for name, embed in features_of(problem, options.seconds).items():
        for how, cluster in CLUSTERINGS.items():
            indices = []
            for number in range(options.tests):
                found = jnp.asarray(cluster(embed(tests.x[number])), jnp.int32)
                index = mj.outer.adjusted_rand_index(tests.y[number], found, WAYS)
                indices.append(index)
            summary = mj.summarize(jnp.stack(indices))
            rows.append(
                {
                    "features": name,
                    "clustering": how,
                    "adjusted_rand": [float(summary.mean), float(summary.interval)],
                }
            )
            print(rows[-1], flush=True)
    return rows


def main(options):
    if options.tiny:
        options.seconds, options.tests = 0.1, 2
    results, digests = {}, {}
    for name, make in PROBLEMS.items():
        problem = make()
        results[name] = measure(problem, options)
        digests[name] = problem.digest
    report = harness.brief_header() | {
        "digests": digests,
        "training_seconds": options.seconds,
        "tests": options.tests,
        "results": results,
    }
    harness.save(options.out, "clustering", report)


if __name__ == "__main__":
    main(parser.parse_args())
