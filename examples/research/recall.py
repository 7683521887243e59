"""Associative recall: what a layer of fast weights remembers, beside a sum of equal size.

A sequence lists pairs of a key and a value, a pair in each token, and then asks for the value of
each key, in another order. A layer of fast weights learns the pairs while it reads. Each rule has a
memory of the same size, width x width numbers, in a net with the same parameters (the ridge rule
also carries a matrix of its keys, and decay has a gate). A sum of the products of values and keys
(linear attention, with and without decay) is the control. The script reports and draws the accuracy
against the number of pairs.

    python examples/research/recall.py --out .
"""

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


class Config(NamedTuple):
    """The settings of a run."""

    pairs: tuple = (8, 16, 24)
    words: int = 64  # keys, and as many values
    width: int = 32  # a memory of 32 x 32
    chunk: int = 16
    sequences: int = 32  # in a step
    steps: int = 1000
    rate: float = 3e-3
    test_sequences: int = 500


TINY = Config(pairs=(2,), words=4, width=8, steps=2, sequences=2, test_sequences=4)


def total(decay):
    """The control: W ← a W + η v kᵀ, which corrects nothing."""

    def by_token(memory, tokens):
        def step(memory, token):
            query, key, value, rate, keep = token
            memory = keep * memory + rate * jnp.outer(value, key)
            return memory, memory @ query

        rows = tokens.query, tokens.key, tokens.value, tokens.rate, shares(tokens)
        memory, outputs = jax.lax.scan(step, memory, rows)
        return outputs, memory

    def at_once(memory, tokens):
        kept = jnp.cumsum(jnp.log(shares(tokens)))
        since = jnp.exp(kept)[:, None]
        within = jnp.tril(jnp.exp(jnp.minimum(kept[:, None] - kept[None], 0)))
        stored = tokens.rate[:, None] * tokens.value
        outputs = since * (tokens.query @ memory.T)
        outputs += (within * (tokens.query @ tokens.key.T)) @ stored
        return outputs, since[-1] * memory + (within[-1][:, None] * stored).T @ tokens.key

    def shares(tokens):
        return jnp.ones_like(tokens.rate) if tokens.keep is None else tokens.keep

    rule = mj.nets.FastRule(
        start=lambda weights: weights[0],
        by_token=by_token,
        at_once=at_once,
        finish=lambda memory: memory,
        linear=True,
        momentum=False,
        first_rate=0.5,
    )
    return rule, {"decay": None if decay else 0.0}


RULES = {
    "ridge": (mj.nets.ridge_rule(0.01), {}),
    "delta rule": (mj.nets.delta_rule(), {}),
    "descent": (mj.nets.descent(), {}),
    "descent, first order": (mj.nets.descent(exact=False), {}),
    "sum": total(decay=False),
    "sum with decay": total(decay=True),
}


class Net(nnx.Module):
    """Embeddings of keys and values, a layer of fast weights, and a linear head."""

    def __init__(self, rule, options, config, rngs):
        width = config.width
        self.key = nnx.Embed(config.words, width, rngs=rngs)
        self.value = nnx.Embed(config.words + 1, width, rngs=rngs)  # the last one is a question
        self.fast = mj.nets.FastWeights(width, 1, rule, chunk=config.chunk, rngs=rngs, **options)
        self.head = nnx.Linear(width, config.words, rngs=rngs)

    def __call__(self, tokens):
        """int[n, t, (key, value)] -> logits of a value at each token, [n, t, words]."""
        x = self.key(tokens[:, :, 0]) + self.value(tokens[:, :, 1])
        return self.head(self.fast(x))


def draw(config, pairs):
    """(source, key) -> sequences as a `Batch`: tokens, values asked for, and where they are."""

    def one(key):
        key_key, value_key, order_key = jax.random.split(key, 3)
        keys = jax.random.permutation(key_key, config.words)[:pairs]
        values = jax.random.randint(value_key, (pairs,), 0, config.words)
        order = jax.random.permutation(order_key, pairs)
        listed = jnp.stack([keys, values], axis=1)
        asked = jnp.stack([keys[order], jnp.full(pairs, config.words)], axis=1)
        answers = jnp.concatenate([values, values[order]])
        is_asked = jnp.concatenate([jnp.zeros(pairs), jnp.ones(pairs)])
        return jnp.concatenate([listed, asked]), answers, is_asked

    def sample(source, key, number=config.sequences):
        tokens, answers, is_asked = jax.vmap(one)(jax.random.split(key, number))
        return mj.Batch(tokens, {"value": answers, "asked": is_asked})

    return sample


def recall_loss(apply):
    """Cross-entropy and accuracy where a value is asked for."""

    def loss(params, batch, key):
        logits = apply(params, batch.x, key)
        asked = batch.y["asked"]
        values = optax.softmax_cross_entropy_with_integer_labels(logits, batch.y["value"])
        right = logits.argmax(axis=-1) == batch.y["value"]
        mean = lambda part: (part * asked).sum() / asked.sum()
        return mean(values), {"accuracy": mean(right)}

    return loss


def train(rule, options, config, pairs):
    """Accuracy in % on new sequences, with its interval."""
    apply, params = mj.nets.functional(Net(rule, options, config, nnx.Rngs(0)))
    loss = recall_loss(apply)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.rate, 100, max(config.steps, 101))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    sample = draw(config, pairs)

    @jax.jit
    def step(carry, key):
        params, state = carry
        gradient = jax.grad(lambda params: loss(params, sample((), key), None)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), config.steps)
    carry = params, optimizer.init(params)
    (params, _), _ = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))(carry, keys)
    test = sample((), jax.random.key(2), config.test_sequences)
    of_each = jax.jit(
        lambda params, batch: jax.lax.map(
            lambda one: loss(params, jax.tree.map(lambda leaf: leaf[None], one), None)[1],
            batch,
        )
    )
    return common.percent(of_each(params, test)["accuracy"])


def main(config, out):
    """Trains each rule on each number of pairs, and draws the accuracy."""
    started = time.perf_counter()
    rows = {}
    for name, (rule, options) in RULES.items():
        rows[name] = [train(rule, options, config, pairs) for pairs in config.pairs]
        print(f"{name:<20}", *map(common.cell, rows[name]), sep="   ", flush=True)
    print(f"in {time.perf_counter() - started:.0f} s")
    report = {**common.header(), "steps": config.steps, "pairs": config.pairs, "rows": rows}
    common.finish(out, "recall", report, plot)


def plot(report, path):
    """The accuracy against the number of pairs, a line for each rule."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, found in report["rows"].items():
        mean, half = np.transpose(found)
        axes.errorbar(report["pairs"], mean, half, marker="o", capsize=2, label=name)
    axes.set(xlabel="pairs in a sequence", ylabel="values recalled, %", xscale="log")
    axes.set_xticks(report["pairs"], report["pairs"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    common.save(figure, path, "one seed; 95 % intervals over new sequences")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
