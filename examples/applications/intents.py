"""New intents from one or five utterances, and noticing an utterance that has none of them.

Reads CLINC150 from the folder that METAJAX_DATA names: 150 intents in 10 domains ("banking",
"travel", ...), 50 utterances of each, and 1 000 that are out of scope. Seven domains are for
training and three for testing, in 5 splits in which each domain is tested once or twice. Intervals
are by Student's t over these splits. A test task has 5 intents never seen, 10 queries of each and
50 queries out of scope, which no training has seen either.

How close a query is to the intents tells whether it is one of them at all. Three scores are
compared by the area under the ROC curve, the chance that a query in scope scores higher than one
out of scope: the nearest class, log Σ exp over all classes ("energy"), and the probability of the
likeliest class. No setting was chosen on test domains.

    METAJAX_DATA=... python examples/applications/intents.py --out .
"""

import functools
import pathlib
import sys
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

SCORES = ("nearest", "energy", "probability")  # of how likely a query is in scope


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 5
    shots: tuple = (1, 5)
    queries: int = 10  # of each class
    outside: int = 50  # queries out of scope
    tasks_at_once: int = 50  # in a test
    width: int = 64  # of the net that is trained from scratch
    vocabulary: int = 2000  # pieces of words
    length: int = 48  # of a text, in pieces
    training_ways: int = 20
    training_queries: int = 4  # of each class; there is one shot
    outer_rate: float = 2e-3
    fuse: int = 20  # steps in one compiled call
    steps: int = 300  # steps of training for each learner and split
    tasks: int = 200  # test tasks of each split
    splits: int = 5  # splits of the domains, 2 to 5


TINY = Config(steps=2, tasks=4, tasks_at_once=4, splits=2, width=16, fuse=1, shots=(1,))


def main(config, out):
    """Trains and tests every learner on every split of the domains."""
    _cache = common.reuse_programs()  # the programs of all splits are the same
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data: the utterances in scope come first, then those out of scope. Tasks hold row numbers:
    # every learner looks up its own features, and all are tested on the same tasks.
    validation_texts, validation_intents = mj.data.clinc150_texts("val")
    test_texts, test_intents = mj.data.clinc150_texts("test")
    outside_texts, _ = mj.data.clinc150_texts("oos_test")
    texts = validation_texts + test_texts + outside_texts
    names, labels = np.unique(validation_intents + test_intents, return_inverse=True)
    inside = len(labels)  # the number of utterances in scope
    domain = np.array([name.partition("/")[0] for name in names])
    domains = np.random.default_rng(0).permutation(np.unique(domain))

    def split_domains(split):
        """The test domains of a split, and for every intent whether it is for training."""
        places = [(2 * split + step) % len(domains) for step in (0, 3, 6)]
        tested = domains[places]
        return tested, ~np.isin(domain, tested)

    def draw(tested, shots):
        """Tasks of intents of these domains. The queries out of scope are at the end."""
        rows = mj.data.dataset(np.arange(inside, dtype=np.int32), labels, names=names.tolist())
        rows = mj.data.select(rows, np.isin(domain, tested))
        draw_task = mj.data.episodes(config.ways, shots, config.queries)

        def sample(rows, key):
            task_key, outside_key = jax.random.split(key)
            task = draw_task(rows, task_key)
            number = len(texts) - inside
            outside = inside + jax.random.choice(
                outside_key, number, (config.outside,), replace=False
            )
            x = jnp.concatenate([task.query.x, outside])
            # The label of a query out of scope is a placeholder: weight 0 keeps it out of the
            # accuracy.
            y = jnp.concatenate([task.query.y, jnp.zeros(config.outside, jnp.int32)])
            weight = jnp.concatenate([jnp.ones(len(task.query.y)), jnp.zeros(config.outside)])
            return mj.Task(task.support, mj.Batch(x, y, weight=weight))

        return jax.jit(mj.data.meta_batch(sample, config.tasks))(rows, jax.random.key(shots))

    # Learners: each is a table of features, `params.slow`, and a way to write a head.
    look_up, _ = mj.nets.from_function(lambda params, rows: params.slow[rows])
    linear = mj.linear_head(look_up)

    def area(scores):
        """Area under the ROC curve of queries in scope against the last ones. Ties count half."""
        within = scores[: -config.outside, None]
        outside = scores[None, -config.outside :]
        return ((within > outside) + 0.5 * (within == outside)).mean()

    def scorer(adaptation, class_means):
        """(params, tasks) -> {metric: mean}: accuracy in scope, and the area of every score.

        Args:
            adaptation: how the head is written.
            class_means: whether the head is that of class means. Its logits then lack -|f(x)|² of
                the negative squared distance, which matters where queries are compared.
        """

        def task_loss(params, task, key):
            adapted = adaptation.adapt(params, task.support, key)
            logits = linear(adapted, task.query.x)
            closeness = logits
            if class_means:
                squares = look_up(adapted, task.query.x) ** 2
                closeness = logits - squares.sum(axis=1, keepdims=True)
            scores = {
                "nearest": closeness.max(axis=1),
                "energy": jax.nn.logsumexp(closeness, axis=1),
                "probability": jax.nn.softmax(logits).max(axis=1),
            }
            correct = (logits.argmax(axis=1) == task.query.y) * task.query.weight
            metrics = {"accuracy": correct.sum() / task.query.weight.sum()}
            metrics |= {name: area(score) for name, score in scores.items()}
            return jnp.zeros(()), metrics

        @jax.jit
        def score(params, tasks):
            found = mj.evaluate(task_loss, params, tasks, key, tasks_at_once=config.tasks_at_once)
            return {name: found[name].mean for name in ("accuracy", *SCORES)}

        return score

    score_means = scorer(mj.prototypes(look_up, config.ways), class_means=True)
    score_ridge = scorer(mj.ridge(look_up, config.ways), class_means=False)

    def train(embed, params, data, write):
        """Params whose features answer 20-way 1-shot tasks of the training domains.

        Args:
            embed: the features.
            params: where training starts.
            data: what it learns from.
            write: (embed, ways) -> the adaptation that writes the head.
        """
        adaptation = write(embed, config.training_ways)
        task_loss = mj.query_loss(adaptation, mj.losses.cross_entropy(mj.linear_head(embed)))
        optimizer = optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
        outer = mj.outer_loop(task_loss, optimizer)
        state, _ = mj.training.fit(
            outer,
            outer.init(adaptation.init(params, key)),
            mj.data.meta_batch(
                mj.data.episodes(config.training_ways, 1, config.training_queries), tasks=1
            ),
            data,
            key,
            steps=config.steps,
            fuse=config.fuse,
            every=config.steps,
            progress=False,
        )
        return state.params

    def training_data(x, for_training):
        """The utterances of the training intents, their rows of x numbered by class."""
        rows = np.flatnonzero(for_training[labels])
        return mj.data.dataset(x[rows], np.unique(labels[rows], return_inverse=True)[1])

    def counted_words(for_training):
        """Features without a net: the words of a text, weighed by how rare they are in training."""
        vocabulary = sorted({word for text in texts for word in text.split()})
        index = {word: number for number, word in enumerate(vocabulary)}
        counts = np.zeros((len(texts), len(vocabulary)), np.float32)
        for row, text in enumerate(texts):
            counts[row, [index[word] for word in text.split()]] = 1
        rows = np.flatnonzero(for_training[labels])
        counts *= np.log((1 + len(rows)) / (1 + counts[rows].sum(axis=0)))
        return jnp.asarray(counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6))

    def net_from_scratch(for_training):
        """Features of a net that reads pieces of words, and learns all of it in training."""
        rows = np.flatnonzero(for_training[labels])
        tokenizer = mj.data.train_tokenizer([texts[row] for row in rows], size=config.vocabulary)
        tokens = mj.data.tokenize(tokenizer, texts, length=config.length, cut=True)
        rngs = nnx.Rngs(0)
        reader = mj.nets.TemporalConv(
            config.width,
            config.width,
            width=config.width,
            blocks=2,
            stride=1,
            norm=mj.nets.GroupNorm,
            rngs=rngs,
        )
        apply, params = mj.nets.functional(mj.nets.Text(config.vocabulary, reader, rngs=rngs))
        embed, _ = mj.nets.from_function(lambda params, x: apply(mj.Params({}, params.slow), x))
        params = train(
            embed, mj.Params({}, params.fast), training_data(tokens, for_training), mj.prototypes
        )

        @jax.jit
        def features(params, tokens):
            pieces = tokens.reshape(-1, 100, config.length)
            return jax.lax.map(functools.partial(embed, params), pieces).reshape(len(tokens), -1)

        return features(params, tokens)

    def mapped(vectors, for_training, write):
        """The pretrained vectors through a linear map that is learned in training, and the rule."""
        embed, _ = mj.nets.from_function(lambda params, x: x @ params.slow)
        params = mj.Params({}, 4 * jnp.eye(vectors.shape[1]))
        params = train(embed, params, training_data(vectors, for_training), write)
        return vectors @ params.slow, params.rule

    def pretrained_vectors():
        """A vector of each text by the pretrained encoder, or None where its package is missing."""
        try:
            vectors = mj.nets.sentence_features(texts)
        except ImportError as error:
            print(f"Without the pretrained encoder: {error}")
            return None
        took = time.perf_counter() - started
        print(f"{len(texts)} texts through the pretrained encoder in {took:.0f} s")
        return jnp.asarray(vectors)

    def learn(for_training, vectors):
        """{learner: (scorer, params)} of a split."""
        tables = {
            "counted words": counted_words(for_training),
            "net from scratch": net_from_scratch(for_training),
        }
        if vectors is not None:
            tables["pretrained"] = vectors
            tables["pretrained, map learned"], _ = mapped(vectors, for_training, mj.prototypes)
        learners = {name: (score_means, mj.Params({}, table)) for name, table in tables.items()}
        if vectors is not None:
            table, rule = mapped(vectors, for_training, mj.ridge)
            learners["pretrained, map and ridge"] = (score_ridge, mj.Params({}, table, rule))
        return learners

    vectors = pretrained_vectors()
    runs = []  # for every split {(shots, learner): {metric: fraction}}
    digests = []
    for split in range(config.splits):
        tested, for_training = split_domains(split)
        parts = {"train": names[for_training].tolist(), "test": names[~for_training].tolist()}
        digests.append(mj.data.class_split("domains", parts).digest)
        learners = learn(for_training, vectors)
        run = {}
        for shots in config.shots:
            tasks = draw(tested, shots)
            for name, (score, params) in learners.items():
                metrics = score(params, tasks)
                run[shots, name] = {metric: float(value) for metric, value in metrics.items()}
        runs.append(run)
        seconds = time.perf_counter() - started
        print(f"split {split}: tested on {', '.join(tested)}; {seconds:.0f} s so far", flush=True)

    # The table.
    def over_splits(shots, row, metric):
        return np.array([run[shots, row][metric] for run in runs])

    rows = list(learners)
    table = {}  # {shots: {row: {metric: [mean, half the width of the interval]}}}
    paired = {}  # the same for differences to the net from scratch
    for shots in config.shots:
        table[shots] = {row: {} for row in rows}
        paired[shots] = {row: {} for row in rows}
        for row in rows:
            for metric in ("accuracy", *SCORES):
                table[shots][row][metric] = common.percent(over_splits(shots, row, metric))
            for metric in ("accuracy", "nearest"):
                scratch = over_splits(shots, "net from scratch", metric)
                less = over_splits(shots, row, metric) - scratch
                paired[shots][row][metric] = common.percent(less)

    for shots in config.shots:
        print(f"\n{common.shots_label(shots)}: accuracy in scope, and area under the ROC curve, %")
        header = "".join(f"{metric:>14}" for metric in ("accuracy", *SCORES))
        print(f"{'':<28}{header}   accuracy minus net from scratch")
        for row in rows:
            cells = "".join(f"{common.cell(value):>14}" for value in table[shots][row].values())
            print(f"{row:<28}{cells}   {common.difference(paired[shots][row]['accuracy'])}")

    took = time.perf_counter() - started
    report = {
        **common.header(),
        "seconds": took,
        "splits": len(runs),
        "tasks": config.tasks,
        "steps": config.steps,
        "ways": config.ways,
        "queries": config.queries,
        "out of scope": config.outside,
        "digests": digests,
        "rows": table,
        "minus net from scratch": paired,
    }
    common.finish(out, "intents", report, plot)


def plot(report, path):
    """Accuracy in scope, and how well the nearest class tells what is out of scope."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True)
    titles = {"accuracy": "Five new intents", "nearest": "In scope or not"}
    chances = {"accuracy": 1 / report["ways"], "nearest": 0.5}
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        by_shots = {
            shots: {row: metrics[metric] for row, metrics in rows.items()}
            for shots, rows in report["rows"].items()
        }
        common.draw_accuracies(axes, by_shots, title=title, chance=chances[metric])
    panels[1].set_xlabel("area under the ROC curve, % (grey line: chance)")
    common.save(figure, path, f"95 % intervals over {report['splits']} splits of the domains")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", "tasks", "splits", description=__doc__)
