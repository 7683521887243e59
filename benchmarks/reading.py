"""Text and pen strokes read far beyond the trained length: what learning while reading adds.

A sequence is all sentences of one intent, character by character (CLINC150), or all drawings of
one character, point by point (Omniglot); intents and characters of the test are new. Each net
predicts the next token. Sentences and drawings of one class resemble each other, so that a net that
remembers what it has read predicts better the further it reads. The rows:

- attention to a window of 16 tokens, in two layers, and nothing else: the control;
- full attention;
- the window and `nets.FastWeights`: descent by the exact derivative and by first order, delta rule;
- the window, and the hidden layer of the last block learns in each chunk of 32 tokens from the loss
  of the next token (`online`): meta-trained by the exact derivative and by first order;
- naive test-time training: the first row, whose hidden layer, or all weights, learn in the same way
  during the test and were not meta-trained. The step size is chosen on validation sequences.

All nets have the same number of parameters up to 3 % and train for the same processor time. Reports
the loss by position up to eight times the trained length, and differences from the control with
95 % intervals over sequences. Writes benchmarks/results/reading.json, and .png.

METAJAX_DATA=folder python benchmarks/reading.py
METAJAX_DATA=folder python benchmarks/reading.py --data strokes --seconds 60 --out /tmp/results
METAJAX_DATA=folder python benchmarks/reading.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import inner, nets

WINDOW, CHUNK, LAYERS, HEADS = 16, 32, 2, 4
CONTEXT = LAYERS * WINDOW  # so many tokens before a chunk decide what it predicts
WIDTH, WIDER = 64, 68  # of a net with and without a layer of fast weights
BATCH, TIMES, RATE = 8, 8, 3e-3
AT_ONCE = 10  # steps in one program
DIRECTIONS, PLACES = 24, 6

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["text", "strokes"], choices=["text", "strokes"])
parser.add_argument("--seconds", type=float, default=240, help="of processor time for each net")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


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
        layer = lambda: nets.Transformer(width, 1, HEADS, causal=True, window=window, rngs=rngs)
        self.layers = nnx.List([layer() for _ in range(LAYERS)])
        make_fast = lambda: nets.FastWeights(width, 2, rule, decay=None, rngs=rngs)
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


def is_last_hidden(path):
    """Whether a weight belongs to the hidden layer of the last block."""
    is_last = path.startswith(f"layers/{LAYERS - 1}/") and "/attention/" not in path
    return is_last and ("/hidden/" in path or "/output/" in path)


def entropies(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def reading(apply):
    """The loss in each chunk of a net that reads a sequence int[t + 1] whole."""

    def losses(params, sequence, key):
        found = entropies(apply(params, sequence[None, :-1])[0], sequence[1:])
        return found.reshape(-1, CHUNK).mean(axis=1)

    return losses


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


def meta_trained(tokens, differentiate):
    """(params, losses) of a net whose hidden layer learns while it reads, at learned rates."""
    apply, params = nets.functional(Reader(tokens))
    step, losses = learning(apply, inner.leaf_rates(0.05), differentiate)
    return step.init(nets.split_params(params, is_last_hidden), jax.random.key(0)), losses


def plain(tokens, **options):
    apply, params = nets.functional(Reader(tokens, **options))
    return params, reading(apply)


CONTROL = "window alone"
ROWS: dict[str, Callable] = {
    CONTROL: plain,
    "full attention": functools.partial(plain, window=None),
    "window + fast weights, exact": functools.partial(plain, rule=nets.descent()),
    "window + fast weights, first order": functools.partial(plain, rule=nets.descent(exact=False)),
    "window + fast weights, delta rule": functools.partial(plain, rule=nets.delta_rule()),
    "hidden layer learns, exact": functools.partial(meta_trained, differentiate=mj.mixed_mode()),
    "hidden layer learns, first order": functools.partial(
        meta_trained, differentiate=mj.first_order()
    ),
}
"""{row: number of tokens -> (params, losses)}."""
NAIVE = {"naive, hidden layer": is_last_hidden, "naive, all weights": lambda path: True}
"""{row: which weights learn during the test}."""
NAIVE_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def trained(losses, params, streams, seconds):
    """(params, facts) after so many seconds of processor time."""

    def task_loss(params, task, key):
        return losses(params, task.support.x, key).mean(), {}

    def sample(source, key):
        class_key, start_key = jax.random.split(key)
        rows = jax.random.randint(class_key, (BATCH,), 0, len(source))
        last = source.shape[1] - streams.length
        starts = jax.random.randint(start_key, (BATCH,), 0, last)
        places = starts[:, None] + jnp.arange(streams.length + 1)[None]
        sequences = mj.Batch(source[rows[:, None], places], jnp.zeros(BATCH))
        return mj.Task(sequences, sequences)

    @jax.jit
    def take_steps(state, source, total):
        """So many steps of `total`, whose step sizes rise, and fall as a cosine."""
        share = lambda step: jnp.minimum(step / 100, (1 + jnp.cos(jnp.pi * step / total)) / 2)
        adam = optax.adam(lambda step: RATE * share(step))
        loop = mj.outer_loop(task_loss, optax.chain(optax.clip_by_global_norm(1.0), adam))
        return mj.training.scan(loop, state, sample, source, jax.random.key(1), steps=AT_ONCE)

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(0)))
    state, source = mj.outer_loop(task_loss, optimizer).init(params), streams.parts["train"]
    jax.block_until_ready(take_steps(state, source, 1.0))
    each = processor_seconds(lambda: take_steps(state, source, 1.0))
    calls, skipped = max(int(seconds / each), 1), 0
    for _ in range(calls):
        state, info = take_steps(state, source, float(calls * AT_ONCE))
        skipped += int(info.skipped.sum())
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves((params.fast, params.slow))),
        "steps": calls * AT_ONCE,
        "milliseconds of a step": 1000 * each / AT_ONCE,
        "skipped": skipped,
    }
    return state.params, facts


def processor_seconds(run):
    """How long the processor works for a function, whatever else runs."""
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


def naive(control, is_fast, streams):
    """(losses of the test, facts) of a net that learns during the test only."""
    apply, _ = nets.functional(Reader(streams.tokens))
    params = nets.split_params(control, is_fast)

    def losses(params, sequence, key):
        return learning(apply, optax.sgd(params.rule))[1](params, sequence, key)

    at = lambda rate, part: np.asarray(
        measured(losses, params._replace(rule=jnp.array(rate)), unseen(streams, part))
    )
    tries = {rate: at(rate, "validation").mean() for rate in NAIVE_RATES}
    rate = min(NAIVE_RATES, key=lambda rate: np.nan_to_num(tries[rate], nan=np.inf))
    return at(rate, "test"), {"rate": rate, "tries": {key: float(tries[key]) for key in tries}}


def bins(chunks):
    """[(name, first chunk, end)] of ranges of positions, in trained lengths."""
    of_length = chunks // TIMES
    edges = [0, 1, 2, 4, 8]
    return [
        (f"{low} to {high}", low * of_length, high * of_length)
        for low, high in itertools.pairwise(edges)
    ]


def compare(found):
    """The rows of the table: losses by position, and differences from the control."""
    rows = []
    for name, (losses, facts) in found.items():
        row = {"row": name, **facts, "loss": {}, "difference": {}}
        for label, first, end in bins(losses.shape[1]):
            here = losses[:, first:end].mean(axis=1)
            there = found[CONTROL][0][:, first:end].mean(axis=1)
            row["loss"][label] = cell_of(here)
            row["difference"][label] = cell_of(here - there)
        row["losses"] = np.round(losses.mean(axis=0), 4).tolist()
        rows.append(row)
    return rows


def gains(found):
    """What meta-training adds: paired differences at positions beyond the trained length."""
    first = found[CONTROL][0].shape[1] // TIMES
    beyond = {name: losses[:, first:].mean(axis=1) for name, (losses, _) in found.items()}
    pairs = [
        ("hidden layer learns, exact", min(NAIVE, key=lambda name: beyond[name].mean())),
        ("hidden layer learns, exact", "hidden layer learns, first order"),
        ("window + fast weights, exact", "window + fast weights, first order"),
    ]
    return [
        {"row": one, "minus": other, "loss": cell_of(beyond[one] - beyond[other])}
        for one, other in pairs
    ]


def cell_of(values):
    summary = mj.summarize(values)
    return [float(summary.mean), float(summary.interval)]


DATA = {"text": text, "strokes": strokes}


def main(options):
    path = options.out / "reading.json"
    report = json.loads(path.read_text()) if path.exists() else {"found": {}}
    report.update(harness.header(seed=0, seconds=options.seconds))
    for data in options.data:
        streams = DATA[data]()
        if options.tiny:
            parts = {part: sequences[:3] for part, sequences in streams.parts.items()}
            streams = streams._replace(length=2 * CHUNK, parts=parts)
        test = unseen(streams, "test")
        found = {}
        for name, make in ROWS.items():
            start, losses = make(streams.tokens)
            params, facts = trained(losses, start, streams, 0 if options.tiny else options.seconds)
            found[name] = np.asarray(measured(losses, params, test)), facts
            if name == CONTROL:
                control = params
            print(data, name, found[name][0].mean(), facts, flush=True)
        for name, is_fast in NAIVE.items():
            found[name] = naive(control, is_fast, streams)
            print(data, name, found[name][0].mean(), found[name][1], flush=True)
        report["found"][data] = {
            "length": streams.length,
            "sequences": len(test),
            "digest": streams.digest,
            "rows": compare(found),
            "gains": gains(found),
        }
        harness.save(options.out, "reading", report)
    draw(report, options.out / "reading.png")


def draw(report, path):
    """The difference from the control against the position, a panel for each kind of data."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(5.5 * len(report["found"]), 4.2))
        panels = np.atleast_1d(figure.subplots(1, len(report["found"])))
        for axes, (data, found) in zip(panels, report["found"].items(), strict=True):
            losses = {row["row"]: np.array(row["losses"]) for row in found["rows"]}
            groups = np.array_split(np.arange(len(losses[CONTROL])), 2 * TIMES)
            middle = [CHUNK * (group.mean() + 0.5) / found["length"] for group in groups]
            lines = {}
            for name, each in losses.items():
                gap = each - losses[CONTROL]
                lines[name] = middle, [gap[group].mean() for group in groups], None
            mj.plots.curves(
                axes,
                lines,
                xlabel="position, in trained lengths",
                ylabel="loss minus that of the window alone, nats a token",
                title=data,
            )
            axes.legend(fontsize=7)
        figure.savefig(path)


if __name__ == "__main__":
    main(parser.parse_args())
