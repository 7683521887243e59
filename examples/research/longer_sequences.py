"""Pen strokes and text read far beyond the trained length, by layers that learn while they read.

A sequence is all drawings of one Omniglot character, point by point, or all sentences of one intent
of CLINC150, character by character. A net predicts the next token; characters and intents of the
test are new. Attention to a window of 16 tokens forgets what a net that learns can remember: how
this character is drawn, or what people say of this intent. One net has a layer of fast weights. Of
another, the hidden layer learns from its own loss after each 32 tokens (`online`). The nets have
the same number of parameters up to 4 % and train for the same processor time; the best of four
checks on validation sequences is tested.
`benchmarks/reading.py` has more rows.

Reads `omniglot_strokes.npz` or `clinc150.json.gz` from the folder that METAJAX_DATA names.

    METAJAX_DATA=folder python examples/research/longer_sequences.py --out .
    METAJAX_DATA=folder python examples/research/longer_sequences.py --data text --out .
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

WINDOW, CHUNK, LAYERS, HEADS = 16, 32, 2, 4
WIDTH, WIDER = 64, 68  # of a net with and without a layer of fast weights
CONTEXT = LAYERS * (WINDOW - 1) + 3  # tokens before a chunk that decide what it predicts
TIMES = 8  # a test sequence is so many times as long as a training sequence
CHECKS = 4  # of a training, on validation sequences
DIRECTIONS, PLACES = 24, 6


class Config(NamedTuple):
    """The settings of a run."""

    data: str = "strokes"  # or "text"
    seconds: float = 60.0  # of processor time for each net
    batch: int = 8
    rate: float = 3e-3
    at_once: int = 10  # steps in one program
    milliseconds: float = 0.0  # of processor time that a step takes; 0 measures it


TINY = Config(seconds=0.0, batch=2, at_once=2)


class Streams(NamedTuple):
    """Sequences of tokens of one kind of data.

    Attributes:
        parts: {part: int[classes, tokens]}, the parts "train", "validation" and "test".
        tokens: number of different tokens.
        length: tokens of a training sequence; a test sequence has `TIMES` as many.
        digest: of the split of the classes.
    """

    parts: dict
    tokens: int
    length: int
    digest: str


def text():
    """All sentences of an intent as characters; three domains to test, and one to choose by."""
    sentences = {}
    for part in ("train", "val", "test"):
        for line, intent in zip(*mj.data.clinc150_texts(part), strict=True):
            sentences.setdefault(intent, []).append(line)
    letters = sorted({letter for lines in sentences.values() for line in lines for letter in line})
    number = {letter: index for index, letter in enumerate(["\n", *letters])}
    rng = np.random.default_rng(0)
    sequences = {
        intent: [number[letter] for letter in "\n".join(rng.permutation(lines))]
        for intent, lines in sentences.items()
    }
    sizes = {"train": 6, "validation": 1, "test": 3}
    split = mj.data.draw_split(sorted(sequences), sizes, group=mj.data.group_of)
    return divided(sequences, split, len(number), 256)


def strokes():
    """All drawings of a character, point by point; two alphabets to test, one to choose by."""
    source = mj.data.omniglot_strokes()
    points, labels = np.asarray(source.x.value["stroke"]), np.asarray(source.y)
    sequences = {
        name: tokens_of(points[labels == index]).ravel() for index, name in enumerate(source.names)
    }
    held_out = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}
    of = lambda alphabets: lambda name: mj.data.group_of(name) in alphabets
    parts = {part: of(alphabets) for part, alphabets in held_out.items()}
    parts["train"] = lambda name: not of(sum(held_out.values(), ()))(name)
    split = mj.data.class_split("alphabets", parts, source.names)
    return divided(sequences, split, DIRECTIONS + PLACES**2, 128)


def tokens_of(points):
    """Drawings [n, points, (x, y, t, start)] as tokens int[n, points].

    Where the pen moves, the token is its direction; where a stroke starts, it is the place.
    """
    moved = np.diff(points[..., :2], axis=1, prepend=points[:, :1, :2])
    turn = np.arctan2(moved[..., 1], moved[..., 0]) / (2 * np.pi)
    direction = np.round(turn * DIRECTIONS).astype(int) % DIRECTIONS
    column, row = np.clip(((points[..., :2] + 1) / 2 * PLACES).astype(int), 0, PLACES - 1).T
    place = DIRECTIONS + PLACES * row.T + column.T
    return np.where(points[..., 3] > 0, place, direction)


def divided(sequences, split, tokens, length):
    """The `Streams` of a split, all cut to one length."""
    shortest = min(len(one) for one in sequences.values())
    assert shortest > TIMES * length, shortest
    parts = {
        part: jnp.array([sequences[name][:shortest] for name in names], jnp.int32)
        for part, names in split.parts.items()
    }
    return Streams(parts, tokens, length, split.digest)


class Reader(nnx.Module):
    """Causal attention, and a layer of fast weights between its blocks if there is a rule."""

    def __init__(self, tokens, *, window=WINDOW, rule=None):
        rngs = nnx.Rngs(0)
        width = WIDER if rule is None else WIDTH
        # A token is known with the three before it, which tells the blocks their order.
        self.embed = nnx.Embed(tokens, 4 * width, rngs=rngs)
        layer = lambda: mj.nets.Transformer(width, 1, HEADS, causal=True, window=window, rngs=rngs)
        self.layers = nnx.List([layer() for _ in range(LAYERS)])
        make_fast = lambda: mj.nets.FastWeights(width, 2, rule, decay=None, rngs=rngs)
        self.fast = None if rule is None else make_fast()
        self.head = nnx.Linear(width, tokens, rngs=rngs)

    def __call__(self, tokens):
        """int[n, t], -1 before the start -> logits of the next token, [n, t, tokens]."""
        n, length = tokens.shape
        valid = tokens >= 0
        each = jnp.where(valid[..., None], self.embed(jnp.maximum(tokens, 0)), 0)
        each = jnp.pad(each.reshape(n, length, 4, -1), ((0, 0), (3, 0), (0, 0), (0, 0)))
        x = sum(each[:, 3 - back : 3 - back + length, back] for back in range(4))
        x = self.layers[0](x, valid)
        if self.fast is not None:
            x += self.fast(x, valid)
        return self.head(self.layers[1](x, valid))


def entropies(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def reading(apply):
    """The loss in each chunk of a net that reads a sequence int[t + 1] whole."""

    def losses(params, sequence, key):
        found = entropies(apply(params, sequence[None, :-1])[0], sequence[1:])
        return found.reshape(-1, CHUNK).mean(axis=1)

    return losses


def is_last_hidden(path):
    """Whether a weight belongs to the hidden layer of the last block."""
    is_last = path.startswith(f"layers/{LAYERS - 1}/") and "/attention/" not in path
    return is_last and ("/hidden/" in path or "/output/" in path)


def chunks_of(sequence):
    """The chunks of a sequence as rows: the tokens with those before them, and the next tokens."""
    padded = jnp.pad(sequence[:-1], (CONTEXT, 0), constant_values=-1)
    starts = jnp.arange(0, len(sequence) - 1, CHUNK)
    rows = starts[:, None] + jnp.arange(CONTEXT + CHUNK)[None]
    return mj.Batch(padded[rows], sequence[1:].reshape(-1, CHUNK))


def learning(apply, optimizer, differentiate=None):
    """(adaptation, losses): the same of a net that learns after each chunk from its loss."""

    def loss(params, batch, key):
        return entropies(apply(params, batch.x)[:, -CHUNK:], batch.y).mean(), {}

    step = mj.inner_loop(loss, optimizer, steps=1, differentiate=differentiate)
    learner = mj.online(step, loss, chunk=1)
    scores = lambda params, sequence, key: learner.scores(params, chunks_of(sequence), key).losses
    return step, scores


def meta_trained(tokens, differentiate, rate=0.05, params=None):
    """(params, losses) of a net whose hidden layer learns while it reads, at learned rates.

    The rates start at `rate`, and the net at `params` or anew.
    """
    apply, fresh = mj.nets.functional(Reader(tokens))
    params = mj.nets.split_params(fresh if params is None else params, is_last_hidden)
    step, losses = learning(apply, mj.inner.leaf_rates(rate), differentiate)
    return step.init(params, jax.random.key(0)), losses


def plain(tokens, **options):
    """(params, losses) of a net that reads a sequence whole."""
    apply, params = mj.nets.functional(Reader(tokens, **options))
    return params, reading(apply)


def trained(losses, params, streams, config):
    """(params, facts): the best on validation sequences within so many seconds of processor time.

    The data sets are small: a net that is fast to train would learn them by heart in the time that
    another needs.
    """

    def task_loss(params, task, key):
        return losses(params, task.support.x, key).mean(), {}

    def sample(source, key):
        class_key, start_key = jax.random.split(key)
        rows = jax.random.randint(class_key, (config.batch,), 0, len(source))
        last = source.shape[1] - streams.length
        starts = jax.random.randint(start_key, (config.batch,), 0, last)
        places = starts[:, None] + jnp.arange(streams.length + 1)[None]
        sequences = mj.Batch(source[rows[:, None], places], jnp.zeros(config.batch))
        return mj.Task(sequences, sequences)

    @jax.jit
    def take_steps(state, source, total):
        """So many steps of `total`, whose step sizes rise, and fall as a cosine."""
        share = lambda step: jnp.minimum(step / 100, (1 + jnp.cos(jnp.pi * step / total)) / 2)
        adam = optax.adam(lambda step: config.rate * share(step))
        loop = mj.outer_loop(task_loss, optax.chain(optax.clip_by_global_norm(1.0), adam))
        return mj.training.scan(
            loop, state, sample, source, jax.random.key(1), steps=config.at_once
        )

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(0)))
    state, source = mj.outer_loop(task_loss, optimizer).init(params), streams.parts["train"]
    jax.block_until_ready(take_steps(state, source, 1.0))
    each = config.milliseconds * config.at_once / 1000
    if not each:
        each = min(processor_seconds(lambda: take_steps(state, source, 1.0)) for _ in range(3))
    calls, skipped = max(int(config.seconds / each), 1), 0
    best, kept, at_step = np.inf, params, 0
    checks = {max(round(calls * part / CHECKS), 1) for part in range(1, CHECKS + 1)}
    for number in range(1, calls + 1):
        state, info = take_steps(state, source, float(calls * config.at_once))
        skipped += int(info.skipped.sum())
        if number not in checks:
            continue
        found = float(measured(losses, state.params, unseen(streams, "validation")).mean())
        if found < best:
            best, kept, at_step = found, state.params, number * config.at_once
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves((params.fast, params.slow))),
        "steps": calls * config.at_once,
        "best step": at_step,
        "validation": best,
        "milliseconds of a step": 1000 * each / config.at_once,
        "skipped": skipped,
    }
    return kept, facts


def processor_seconds(run):
    """How long the processor works for a function."""
    start = time.process_time()
    jax.block_until_ready(run())
    return time.process_time() - start


@functools.partial(jax.jit, static_argnames="losses")
def measured(losses, params, sequences):
    """The loss in each chunk of sequences, [sequences, chunks]."""
    return jax.lax.map(lambda one: losses(params, one, jax.random.key(0)), sequences)


def unseen(streams, part):
    """Sequences of eight times the trained length."""
    return streams.parts[part][:, : TIMES * streams.length + 1]


DATA = {"text": text, "strokes": strokes}
CONTROL = "window alone"
ROWS = {
    CONTROL: plain,
    "window + fast weights": functools.partial(plain, rule=mj.nets.delta_rule()),
    "hidden layer learns": functools.partial(meta_trained, differentiate=mj.mixed_mode()),
}
"""{row: number of tokens -> (params, losses)}."""


def main(config, out):
    """Trains the nets, and draws the loss against the position."""
    started = time.perf_counter()
    streams = DATA[config.data]()
    if not config.seconds:
        parts = {part: sequences[:3] for part, sequences in streams.parts.items()}
        streams = streams._replace(length=2 * CHUNK, parts=parts)
    found, rows = {}, {}
    for name, make in ROWS.items():
        start, losses = make(streams.tokens)
        params, facts = trained(losses, start, streams, config)
        found[name] = np.asarray(measured(losses, params, unseen(streams, "test")))
        beyond = lambda losses: losses[:, losses.shape[1] // TIMES :].mean(axis=1)
        gap = mj.summarize(beyond(found[name]) - beyond(found[CONTROL]))
        rows[name] = {
            **facts,
            "losses": np.round(found[name].mean(axis=0), 4).tolist(),
            "difference": [float(gap.mean), float(gap.interval)],
        }
        print(
            f"{name:<36} beyond the trained length", common.difference(rows[name]["difference"], 3)
        )
    print(f"in {time.perf_counter() - started:.0f} s")
    report = {
        **common.header(),
        "data": config.data,
        "digest": streams.digest,
        "length": streams.length,
        "seconds": config.seconds,
        "rows": rows,
    }
    common.finish(out, "longer_sequences", report, plot)


def plot(report, path):
    """The loss minus that of the control against the position, a line for each net."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    control = np.array(report["rows"][CONTROL]["losses"])
    for name, row in report["rows"].items():
        groups = np.array_split(np.array(row["losses"]) - control, 2 * TIMES)
        middle = (np.arange(len(groups)) + 0.5) * TIMES / len(groups)
        axes.plot(middle, [group.mean() for group in groups], marker=".", label=name)
    axes.axvline(1, color="0.8", zorder=0)
    axes.set(xlabel="position, in trained lengths", ylabel=f"loss minus {CONTROL}, nats a token")
    axes.set_title(report["data"])
    axes.legend(fontsize=8)
    common.save(figure, path, "one seed; means over test sequences; line: the trained length")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "data", "seconds", description=__doc__)
