"""Whether the signal-to-noise ratio of an outer gradient tells where learned weights help.

Scikit-learn's digits, of which 40 % of 1 000 training labels are wrong. The weight of every example
is learned on a few clean images, through ten inner steps on minibatches. For each number of clean
images and each size of the minibatch: the signal-to-noise ratio of the first outer gradient, over
draws of clean images and of minibatches, and the gain in test accuracy over training without
weights, after the same steps. The figure is the rank correlation of the two over settings, for each
seed, with its interval over seeds. Writes benchmarks/results/signal_to_noise.json and .png.

python benchmarks/signal_to_noise.py
python benchmarks/signal_to_noise.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import functools
import itertools
import pathlib
import tempfile

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from flax import nnx

import metajax as mj
from metajax import diagnostics

CLASSES, WRONG, TRAIN, TEST = 10, 0.4, 1000, 400
INNER_STEPS, OUTER_STEPS, RATE = 10, 50, 0.05
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def digits(seed):
    """(training batch with wrong labels, other images to validate, test batch)."""
    from sklearn.datasets import load_digits

    source = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source.target))
    x = (source.data[order] / 16).astype(np.float32)
    y = source.target[order].astype(np.int32)
    noisy = y.copy()
    wrong = rng.permutation(TRAIN)[: round(WRONG * TRAIN)]
    noisy[wrong] = (y[wrong] + rng.integers(1, CLASSES, len(wrong))) % CLASSES
    test = slice(TRAIN, TRAIN + TEST)
    others = mj.Batch(x[TRAIN + TEST :], y[TRAIN + TEST :])
    return mj.Batch(x[:TRAIN], noisy[:TRAIN]), others, mj.Batch(x[test], y[test])


def make_problem(minibatch):
    """(adaptation, loss): the slow weights are the logits of the weights of examples."""
    apply, _ = make_net(0)
    loss = mj.losses.cross_entropy(apply)

    def weighted(params, batch, key):
        rows = batch.x[:, -1].astype(jnp.int32)  # the last column is the number of the example
        weight = jax.nn.sigmoid(params.slow["logits"][rows])
        return loss(params, mj.Batch(batch.x[:, :-1], batch.y, weight), key)

    adaptation = mj.inner_loop(
        weighted,
        optax.sgd(0.1, momentum=0.9),
        steps=INNER_STEPS,
        sample=mj.inner.minibatch(minibatch),
        differentiate=mj.mixed_mode(),
    )
    return adaptation, loss


def make_net(seed):
    """(apply, params) of the net that is trained."""
    return mj.nets.functional(mj.nets.MLP(64, (64,), CLASSES, rngs=nnx.Rngs(seed)))


def numbered(batch):
    """The batch with the number of each example as a last column."""
    return batch._replace(x=np.concatenate([batch.x, np.arange(len(batch.y))[:, None]], axis=1))


def measure(clean, minibatch, seeds, outer_steps):
    """[{ratio, gain, accuracies} of each seed] of one setting."""
    adaptation, loss = make_problem(minibatch)

    def only_slow(params, task, key):
        """The loss of a task as a function of the logits; its context is where the net starts."""
        adapt_key, query_key = jax.random.split(key)
        start = params._replace(fast=task.context)
        return loss(adaptation.adapt(start, task.support, adapt_key), task.query, query_key)

    @functools.partial(jax.jit, static_argnames="rate")
    def train(params, one, test, key, rate):
        outer = mj.bilevel(adaptation, loss, optax.adam(rate))
        state = outer.init(params)
        draw = lambda tasks, key: tasks
        state, _ = mj.training.scan(outer, state, draw, one, key, steps=outer_steps)
        return 100 * loss(state.params, test, None)[1]["accuracy"]

    rows = []
    for seed in range(seeds):
        noisy, others, test = digits(seed)
        _, params = make_net(seed)
        slow = {"logits": jnp.zeros(TRAIN)}
        rng = np.random.default_rng(seed)
        drawn = np.stack([rng.permutation(len(others.y))[:clean] for _ in range(8)])
        queries = jax.tree.map(lambda leaf, drawn=drawn: leaf[drawn], others)
        eight = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), tree)
        tasks = mj.Task(eight(numbered(noisy)), queries, eight(params.fast))
        key = jax.random.key(seed)
        noise = diagnostics.measure_noise(only_slow, mj.Params({}, slow), tasks, key, draws=8)
        one = jax.tree.map(lambda leaf: leaf[:1], tasks._replace(context=()))
        start = params._replace(slow=slow)
        learned, uniform = (float(train(start, one, test, key, rate)) for rate in (RATE, 0.0))
        ratio = max(noise.signal, 0) / noise.noise
        rows.append({"ratio": ratio, "gain": learned - uniform, "learned": learned})
    return rows


def draw(rows, path):
    """The gain against the ratio, a mean over seeds for each setting."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(6.5, 4.4))
        axis = figure.subplots()
        for row in rows:
            ratio = np.mean([one["ratio"] for one in row["seeds"]])
            gain = mj.summarize(np.array([one["gain"] for one in row["seeds"]]))
            label = f"{row['clean']}, {row['minibatch']}"
            axis.errorbar(ratio, float(gain.mean), yerr=float(gain.interval), fmt="o", color="C0")
            axis.annotate(
                label,
                (ratio, float(gain.mean)),
                fontsize=7,
                xytext=(4, 4),
                textcoords="offset points",
            )
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xlabel("signal-to-noise ratio of the first outer gradient")
        axis.set_ylabel("gain in test accuracy, points")
        axis.set_title("Numbers: clean images, size of the minibatch", fontsize=9)
        figure.savefig(path)


def main(options):
    # The program of a setting is the same for every seed, but for `measure_noise`, which compiles.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    cleans, minibatches, outer_steps = (10, 20, 50, 150), (16, 64, 256), OUTER_STEPS
    if options.tiny:
        cleans, minibatches, outer_steps, options.seeds = (10,), (16, 32), 2, 2
    rows = []
    for clean, minibatch in itertools.product(cleans, minibatches):
        found = measure(clean, minibatch, options.seeds, outer_steps)
        rows.append({"clean": clean, "minibatch": minibatch, "seeds": found})
        means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        print(clean, minibatch, means, flush=True)
    correlations = []
    for seed in range(options.seeds):
        of_seed = [row["seeds"][seed] for row in rows]
        pair = ([one["ratio"] for one in of_seed], [one["gain"] for one in of_seed])
        correlations.append(float(scipy.stats.spearmanr(*pair).statistic))
    summary = mj.summarize(np.array(correlations))
    found = [float(summary.mean), float(summary.interval)]
    print("correlation", found)
    report = harness.header(seed=0, seeds=options.seeds, correlation=found, rows=rows)
    harness.save(options.out, "signal_to_noise", report)
    draw(rows, options.out / "signal_to_noise.png")


if __name__ == "__main__":
    main(parser.parse_args())
