"""Speech recognition from few examples: words and speakers never heard, names spelled, digits seen as well as heard.

Reads `fsdd.npz`, `mnist.npz` and `omniglot.npz` from the folder that METAJAX_DATA names. New words: the net is trained
on five spoken digits and tested on the other five, all speakers in both; five halvings, either half trained. New
speakers: trained on three speakers and tested on the fourth, who says each of the ten words once or five times; four
folds. An interval is over these splits and not over tasks. What is chosen (a rate, how far to trust other speakers) is
chosen on recordings or speakers of the training part.

    METAJAX_DATA=... python examples/speech.py --out .
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import modalities
from metajax.modalities.measurement import first_shots

WAYS, FRAMES, MELS, WIDTH, TASKS, SHOTS = 5, 20, 40, 16, 100, (1, 5)
RATES = (0.0, 0.01, 0.1, 1.0)  # of fine-tuning a head
COUNTS = (0.1, 0.3, 1.0, 3.0, 10.0)  # as how many shots the class means of other speakers count

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=100, help="steps of training of each net")
parser.add_argument("--splits", type=int, default=10, help="splits of the words, 2 to 10")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of speech.json and speech.png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()


# Data: the log-mel spectrogram of each recording, from where it begins to where it ends, brought to FRAMES frames.
@jax.jit
def spectrograms(wave):
    """[recordings, samples] -> [recordings, FRAMES, MELS]."""
    length = wave.shape[1] - (wave[:, ::-1] != 0).argmax(axis=1)
    front = mj.nets.Audio(mj.nets.TemporalConv(MELS, 1, rngs=nnx.Rngs(0)), rate=8000)
    series = front.series(mj.Series(wave[..., None] / 32768, length))
    place = jnp.linspace(0, 1, FRAMES)[None] * (series.length - 1.0)[:, None]
    at = jax.vmap(lambda place, band: jnp.interp(place, jnp.arange(len(band)), band), (None, 1), 1)
    return jax.vmap(at)(place, series.value)


pairs = mj.data.paired_digits(
    seed=0
)  # all 2 000 recordings, each with a written digit of the same value
sounds = np.asarray(spectrograms(pairs.x.value["audio"])).reshape(10, 200, FRAMES, MELS)
pictures = np.asarray(pairs.x.value["image"]).reshape(10, 200, 28, 28, 1)
speakers = ["george", "jackson", "nicolas", "theo"]
spoken = [
    np.asarray(spectrograms(mj.data.spoken_digits(speakers=[name]).x)) for name in speakers
]  # [500, ...] each
rows_of = lambda classes, each: mj.data.dataset(
    np.arange(classes * each), np.repeat(np.arange(classes), each)
)

# The net keeps the order of time: its features are those of all frames, side by side. Each recording is normalised by
# itself, so that features do not depend on what else is asked, and are computed once.
net = mj.nets.TemporalConv(
    MELS, WIDTH, width=48, blocks=2, stride=1, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(0)
)
apply, start = mj.nets.functional(net)
start = mj.Params({}, start.fast)


def embed(params, x, key=None, *, reference=None):
    tokens, _ = apply(mj.Params(params.slow, {}), x, method="tokens")
    return tokens.reshape(len(tokens), FRAMES * WIDTH) / FRAMES**0.5


known = lambda params, x, key=None, *, reference=None: x  # of features that are there already
heard, answer = (mj.losses.cross_entropy(mj.linear_head(features)) for features in (embed, known))
features_of = jax.jit(embed)
empty = lambda ways: {
    "head": {"kernel": jnp.zeros((FRAMES * WIDTH, ways)), "bias": jnp.zeros(ways)}
}


def trainer(task_loss, sample, rate=3e-3, steps=options.steps):
    """(params, dataset, key) -> params, compiled once for all splits."""
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def run(params, dataset, key):
        def step(state, key):
            draw_key, step_key = jax.random.split(key)
            return outer.step(state, sample(dataset, draw_key), step_key)[0], None

        return jax.lax.scan(step, outer.init(params), jax.random.split(key, steps))[0].params

    return jax.jit(run)


def drawer(classes, each, ways):
    """(key, info) -> TASKS tasks of the numbers of rows, of `classes` sorted classes of `each` rows."""
    sample = jax.jit(mj.data.meta_batch(mj.data.episodes(ways, max(SHOTS), 10), TASKS))
    rows = rows_of(classes, each)
    return lambda key, info=(): sample(mj.data.dataset(rows.x, rows.y, info=info), key)


def place(features, tasks):
    """The tasks with features in the place of the numbers of rows."""
    put = lambda batch: batch._replace(x=jax.tree.map(lambda leaf: leaf[batch.x], features))
    return tasks._replace(support=put(tasks.support), query=put(tasks.query))


def judge(adaptation, ways, loss=answer):
    """(params, tasks, shots) -> mean accuracy and loss over tasks with only the first shots, compiled once for all."""
    task_loss = mj.query_loss(adaptation, loss)
    few = lambda tasks, shots: jax.vmap(lambda task: first_shots(task, shots, ways))(tasks)

    @jax.jit
    def run(params, tasks, shots):
        judged = mj.evaluate(task_loss, params, few(tasks, shots), key, tasks_at_once=20)
        return judged["accuracy"].mean, judged["loss"].mean

    return run


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


nearest = {ways: judge(mj.prototypes(known, ways), ways) for ways in (WAYS, 10)}
descend = mj.inner_loop(answer, mj.shared_rate(0.0), steps=20, differentiate=mj.first_order())
tuned_words = judge(mj.chain(mj.prototypes(known, WAYS), descend), WAYS)
at_rate = lambda rate: mj.Params(
    {}, (), ((), jnp.asarray(rate))
)  # a chain has one rule for each link

# New words. The pretrained net learns to name the training words; the meta-trained one, to tell words by examples.
draw_words, draw_held = drawer(WAYS, 200, WAYS), drawer(WAYS, 50, WAYS)
pretrain = trainer(mj.supervised(heard), mj.data.meta_batch(mj.data.batches(60), 1))


def stitched(dataset, key):
    """Two tasks: of the words as they are, and of words that begin as one and end as another, of which there are more.

    This and the net were chosen on two of the five training digits of each half, with the other three for training.
    """
    *keys, cut_key = jax.random.split(key, 3)
    whole, other = (mj.data.episodes(WAYS, 1, 5)(dataset, k) for k in keys)
    begins = (
        jnp.arange(FRAMES) < jax.random.randint(cut_key, (), FRAMES // 4, 3 * FRAMES // 4 + 1)
    )[None, :, None]
    join = lambda first, last: first._replace(x=jnp.where(begins, first.x, last.x))
    both = whole, mj.Task(join(whole.support, other.support), join(whole.query, other.query))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)


meta_train = trainer(mj.query_loss(mj.prototypes(embed, WAYS), heard), stitched)
orders = [np.random.default_rng(seed).permutation(10) for seed in range(5)]
halves = [(order[i:][:WAYS], order[WAYS - i :][:WAYS]) for order in orders for i in (0, WAYS)][
    : options.splits
]


# A name as class-side information: AM3 leans on what a GRU makes of the letters.
def describe(params, info, key=None):
    return read(mj.Params(params.slow["letters"], {}), info)


letters = np.array(
    [[ord(c) - 96 for c in name.ljust(5, "`")] for name in pairs.names], np.int32
)  # 0 pads
read, written = mj.nets.functional(
    mj.nets.Text(27, mj.nets.GRU(32, FRAMES * WIDTH, rngs=nnx.Rngs(1)), rngs=nnx.Rngs(1))
)
leaning = modalities.adaptive_prototypes(known, describe, WAYS, FRAMES * WIDTH)
named = mj.query_loss(leaning, answer)


def with_and_without_shots(params, task, key):
    blank = task.support._replace(weight=jnp.zeros(len(task.support.y)))
    (first, metrics), (second, _) = (
        named(params, task._replace(support=s), key) for s in (task.support, blank)
    )
    return first + second, metrics


learn_names = trainer(
    with_and_without_shots, mj.data.meta_batch(mj.data.episodes(WAYS, 1, 5), 4), steps=200
)


@jax.jit
def judge_names(params, tasks, shots):
    tasks = jax.vmap(lambda task: first_shots(task, shots, WAYS))(tasks)
    judged = modalities.compare_side_information(named, params, tasks, key, tasks_at_once=20)
    return {control: metrics["accuracy"].mean for control, metrics in judged.items()}


# Written digits: a Conv4 that has learned to compare characters of Omniglot and has never seen a digit.
see, eye = mj.nets.functional(mj.nets.Conv4(32, width=32, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(2)))
look = lambda params, x, key=None, *, reference=None: see(mj.Params(params.slow, {}), x)
seen = mj.losses.cross_entropy(mj.linear_head(look))
characters = mj.data.meta_batch(mj.data.episodes(20, 1, 3), 1)
learn_to_look = trainer(
    mj.query_loss(mj.prototypes(look, 20), seen), characters, steps=2 * options.steps
)
eye = learn_to_look(mj.Params({}, eye.fast), mj.data.omniglot(), key)
views = jax.jit(look)(eye, pictures.reshape(-1, 28, 28, 1) / 255.0).reshape(10, 200, -1)
value = lambda params, x, key=None, *, reference=None: x.value
fused = mj.losses.cross_entropy(modalities.late_head(value))
late = judge(modalities.modal_prototypes(value, WAYS), WAYS, fused)

words, held, digests = {}, {}, {"new words": [], "new speakers": []}


def note(table, row, shots, value):
    """Adds the accuracy of one more split to a row."""
    accuracy = value[0] if isinstance(value, tuple) else value
    table.setdefault(row, {}).setdefault(shots, []).append(float(accuracy))


for split, (train, test) in enumerate(halves):
    split_key = jax.random.fold_in(key, split)
    parts = {
        part: [pairs.names[word] for word in half]
        for part, half in (("train", train), ("test", test))
    }
    digests["new words"].append(mj.data.class_split("words", parts).digest)
    x, here = sounds[train], np.arange(200) % 4 < 3
    part = lambda kept, x=x: mj.data.dataset(
        x[:, kept].reshape(-1, FRAMES, MELS), np.repeat(np.arange(WAYS), kept.sum())
    )
    pretrained = pretrain(start._replace(fast=empty(WAYS)), part(here), split_key)
    meta = meta_train(start, part(here), split_key)
    new = sounds[test].reshape(-1, FRAMES, MELS)
    plain, ours, theirs = (
        new.reshape(len(new), -1),
        features_of(meta, new),
        features_of(pretrained, new),
    )
    own = features_of(meta, part(here).x)
    with_names = mj.data.dataset(np.asarray(own), part(here).y, info=letters[train])
    params = leaning.init(mj.Params({}, {"letters": written.fast}), key)
    params = learn_names(params, with_names, split_key)
    tasks, held_tasks = draw_words(split_key, letters[test]), draw_held(split_key, letters[train])
    kept, theirs = (
        place(*two)
        for two in ((features_of(pretrained, part(~here).x), held_tasks), (theirs, tasks))
    )
    plain, heard_tasks, blank = place(plain, tasks), place(ours, tasks), mj.Params({}, ())
    ones = jnp.ones(len(new), bool)
    both = {"image": views[test].reshape(len(new), -1), "audio": ours}
    of = lambda sound: place(mj.Modalities(both, {"image": ones, "audio": ones & sound}), tasks)  # noqa: B023
    written_tasks, both_tasks = of(False), of(True)
    for shots in SHOTS:
        # By the loss: on the training words, whose recordings are told apart without a fault, accuracy chooses nothing.
        rate = RATES[int(np.argmin([tuned_words(at_rate(rate), kept, shots)[1] for rate in RATES]))]
        note(held, "rate", shots, rate)
        note(words, "log-mel, class means", shots, nearest[WAYS](blank, plain, shots))
        note(words, "pretrained, class means", shots, nearest[WAYS](blank, theirs, shots))
        note(words, "pretrained, fine-tuned head", shots, tuned_words(at_rate(rate), theirs, shots))
        note(words, "meta-trained, class means", shots, nearest[WAYS](blank, heard_tasks, shots))
        for control, accuracy in judge_names(params, heard_tasks, shots).items():
            note(words, f"name, {control}", shots, accuracy)
        note(words, "written digit", shots, late(blank, written_tasks, shots))
        note(words, "written and spoken", shots, late(blank, both_tasks, shots))
    print(f"words, split {split}: {time.perf_counter() - started:.0f} s", flush=True)


# New speakers. The support set of a training task is of one speaker, its query set of the same or of another.
draw_speaker = drawer(10, 50, 10)
one = mj.data.episodes(10, 1, 3)


def across_speakers(data, key):
    x, allowed = data  # [speakers, 500, FRAMES, MELS] and the probability of each speaker
    *keys, task_key = jax.random.split(key, 3)
    first, second = (x[jax.random.choice(k, len(x), p=allowed)] for k in keys)
    task = one(rows_of(10, 50), task_key)
    put = lambda batch, x: batch._replace(x=x[batch.x])
    return mj.Task(put(task.support, first), put(task.query, second))


def recordings(data, key):
    x, allowed = data
    who_key, row_key = jax.random.split(key)
    who = jax.random.choice(who_key, len(x), (60,), p=allowed)
    row = jax.random.randint(row_key, (60,), 0, x.shape[1])
    return mj.Batch(x[who, row], row // 50)


def by_word(tasks):
    """The tasks with each word numbered as in the data, and not in the order drawn."""
    word = lambda batch: batch._replace(y=batch.x // 50)
    return tasks._replace(support=word(tasks.support), query=word(tasks.query))


def trust(params, support, key):
    """Class means of the shots and of the other speakers, who count as so many shots (MAP: Gauvain and Lee 1994)."""
    weight = jnp.concatenate([jnp.full(10, params.slow["count"]), support.weight])
    x, y = (
        jnp.concatenate([params.slow["means"], support.x]),
        jnp.concatenate([jnp.arange(10), support.y]),
    )
    return mj.prototypes(known, 10).adapt(params, mj.Batch(x, y, weight), key)


pretrain = trainer(mj.supervised(heard), mj.data.meta_batch(recordings, 1))
meta_train = trainer(
    mj.query_loss(mj.prototypes(embed, 10), heard), mj.data.meta_batch(across_speakers, 2)
)
trusting = judge(mj.Adaptation(lambda params, key: params, trust), 10)
tuned = judge(descend, 10)
voices = jnp.stack([jnp.asarray(x) for x in spoken])


def learn(who, fold_key):
    """(params of the pretrained net, of the meta-trained one, class means by the latter) of these speakers."""
    allowed = jnp.isin(jnp.arange(len(voices)), jnp.array(who)) / len(who)
    pretrained = pretrain(start._replace(fast=empty(10)), (voices, allowed), fold_key)
    meta = meta_train(start, (voices, allowed), fold_key)
    means = jnp.stack(
        [features_of(meta, voices[i]).reshape(10, 50, -1).mean(axis=1) for i in who]
    ).mean(axis=0)
    return pretrained, meta, means


def measure(nets, x, tasks, shots, rates, counts):
    """{row: accuracy}, where there is a choice the list of accuracies for each."""
    pretrained, meta, means = nets
    plain, ours, theirs = (
        place(f, tasks)
        for f in (x.reshape(len(x), -1), *map(features_of, (meta, pretrained), (x, x)))
    )
    head = lambda rate: mj.Params(pretrained.fast, (), jnp.asarray(rate))
    own = lambda count: mj.Params({}, {"means": means, "count": jnp.asarray(count)})
    return {
        "fine-tuned": [tuned(head(rate), theirs, shots)[0] for rate in rates],
        "trusting": [trusting(own(count), ours, shots)[0] for count in counts],
        "no shot, pretrained": tuned(head(0.0), theirs, shots),
        "no shot, class means of the others": trusting(own(1e6), ours, shots),
        "log-mel, class means": nearest[10](own(0.0), plain, shots),
        "meta-trained, class means": nearest[10](own(0.0), ours, shots),
    }


new_speakers = {}
for who in range(len(speakers)):
    fold_key, validation = jax.random.fold_in(key, 100 + who), (who + 1) % len(speakers)
    others = [i for i in range(len(speakers)) if i != who]
    parts = {"train": [speakers[i] for i in others], "test": [speakers[who]]}
    digests["new speakers"].append(mj.data.class_split("speakers", parts).digest)
    inner = learn([i for i in others if i != validation], fold_key)
    outer = learn(others, fold_key)
    tasks = by_word(draw_speaker(fold_key))
    for shots in SHOTS:
        chosen = measure(inner, voices[validation], tasks, shots, RATES, COUNTS)
        rate, count = (
            grid[int(np.argmax(chosen[row]))]
            for row, grid in (("fine-tuned", RATES), ("trusting", COUNTS))
        )
        rows = measure(outer, voices[who], tasks, shots, [rate], [count])
        rows |= {"pretrained, fine-tuned head": rows.pop("fine-tuned")[0]}
        rows |= {"meta-trained, shots and others": rows.pop("trusting")[0]}
        for row, accuracy in rows.items():
            note(new_speakers, row, shots, accuracy)
        note(held, "rate for speakers", shots, rate)
        note(held, "count of others", shots, count)
    print(f"speakers, {speakers[who]}: {time.perf_counter() - started:.0f} s", flush=True)
took = time.perf_counter() - started

# The table.
table = {"new words": words, "new speakers": new_speakers}
rows = {
    part: {row: {k: summary(v) for k, v in one.items()} for row, one in t.items()}
    for part, t in table.items()
}
differences = {
    "meta-trained minus log-mel": (words, "meta-trained, class means", "log-mel, class means"),
    "meta-trained minus pretrained": (words, "meta-trained, class means", "pretrained, class means"),
    "meta-trained minus fine-tuned": (words, "meta-trained, class means", "pretrained, fine-tuned head"),
    "name minus none": (words, "name, given", "meta-trained, class means"),
    "name minus permuted name": (words, "name, given", "name, permuted"),
    "both minus written": (words, "written and spoken", "written digit"),
    "both minus spoken": (words, "written and spoken", "meta-trained, class means"),
    "speaker's shots and others minus no shot": (
        new_speakers, "meta-trained, shots and others", "no shot, class means of the others",
    ),
    "fine-tuned minus no shot": (new_speakers, "pretrained, fine-tuned head", "no shot, pretrained"),
    "shots and others minus fine-tuned": (
        new_speakers, "meta-trained, shots and others", "pretrained, fine-tuned head",
    ),
}  # fmt: skip
paired = {
    name: {shots: summary(np.subtract(t[row][shots], t[other][shots])) for shots in SHOTS}
    for name, (t, row, other) in differences.items()
}
show = lambda values: "   ".join("{:5.1f} ± {:4.1f}".format(*values[shots]) for shots in SHOTS)
for part, of_part in (rows | {"paired differences": paired}).items():
    print(f"\n{part:<44}" + "   ".join(f"{shots} shot{'s' * (shots > 1):<6}" for shots in SHOTS))
    for row, values in of_part.items():
        print(f"{row:<42}{show(values)}")
header = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "seconds": took}
sizes = {"steps": options.steps, "splits": len(halves), "folds": len(speakers), "tasks": TASKS}
report = {
    **header,
    "sizes": sizes,
    "digests": digests,
    "rows": rows,
    "paired": paired,
    "chosen": held,
    "folds": new_speakers,
}
(options.out / "speech.json").write_text(json.dumps(report, indent=1) + "\n")

# The picture: a task of the last split, then what the rows of the table are worth.
figure = plt.figure(figsize=(15, 4.6), layout="constrained")
shown, *axes = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
task = jax.tree.map(lambda leaf: leaf[0], draw_words(split_key, letters[test]))
task = first_shots(task, 1, WAYS)
given = np.asarray(task.support.weight) > 0
few = np.arange(len(task.query.y)) % 10 < 4
sound, task = task, place(ours, task)
support = mj.Batch(task.support.x[given], task.support.y[given])
answers = mj.predict(
    mj.prototypes(known, WAYS), mj.linear_head(known), blank, support, task.query.x, key
)
low, high = new.min(), new.max()
ink = lambda rows: np.clip((new[rows] - low) / (high - low), 0, 1).transpose(0, 2, 1)[
    :, ::-1, :, None
]  # pitch upward
picture = mj.Task(
    mj.Batch(ink(sound.support.x[given]), support.y),
    mj.Batch(ink(sound.query.x[few]), sound.query.y[few]),
)
mj.plots.task(
    shown,
    picture,
    answers.argmax(axis=1)[few],
    title="Words never heard, told apart by one recording each",
)
for way, spelled in enumerate(np.asarray(task.support.info)):
    name = "".join(chr(96 + letter) for letter in spelled if letter)
    shown.text(-0.4, way + 0.5, name, ha="right", va="center", fontsize=9)
for axis, of_part, title in zip(
    axes, rows.values(), (f"New words, {WAYS}-way", "A new speaker, 10 words"), strict=True
):
    plots = {
        f"{shots} shot{'s' * (shots > 1)}": {
            row: np.divide(values[shots], 100) for row, values in of_part.items()
        }
        for shots in SHOTS
    }
    mj.plots.accuracies(axis, plots, title=title)
figure.savefig(options.out / "speech.png", dpi=100)
print(
    f"{time.perf_counter() - started:.0f} s in all; see {options.out / 'speech.png'} and speech.json."
)
