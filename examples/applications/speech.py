"""Speech from few examples: new words, new speakers, names, and digits seen as well as heard.

Reads `fsdd.npz`, `mnist.npz` and `omniglot.npz` from the folder that METAJAX_DATA names.

- New words: the net is trained on five spoken digits and tested on the other five, with all
  speakers in both parts. There are five halvings of the digits, and either half is trained on.
- New speakers: the net is trained on three speakers and tested on the fourth, who says each of the
  ten words once or five times. There are four folds.

An interval is over these splits and not over tasks. What is chosen (a rate, how far to trust other
speakers) is chosen on recordings or speakers of the training part.

    METAJAX_DATA=... python examples/applications/speech.py --out .
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable
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

WORDS = 10
EACH = 200  # recordings of a word, by all speakers
OF_SPEAKER = 50  # recordings of a word, by one speaker
SAMPLE_RATE = 8000  # Hz
FRAMES = 20  # of a spectrogram
MELS = 40  # its frequency bands

WAYS = 5  # of new words


class Config(NamedTuple):
    """The settings of a run."""

    speakers: tuple = ("george", "jackson", "nicolas", "theo")
    shots: tuple = (1, 5)
    queries: int = 10  # of each class
    tasks: int = 100  # of each split and number of shots
    at_once: int = 20  # tasks that are evaluated at once
    width: int = 16  # features of a frame
    channels: int = 48  # of the net for speech
    eye_width: int = 32  # of the net for pictures
    outer_rate: float = 3e-3
    name_steps: int = 200  # of learning to read names
    tuning_steps: int = 20  # of fine-tuning a head
    rates: tuple = (0.0, 0.01, 0.1, 1.0)  # of fine-tuning a head
    counts: tuple = (
        0.1,
        0.3,
        1.0,
        3.0,
        10.0,
    )  # as how many shots the class means of other speakers count
    steps: int = 100  # steps of training of each net
    splits: int = 10  # splits of the words, 2 to 10


TINY = Config(
    steps=1,
    splits=2,
    speakers=("george", "jackson", "nicolas"),
    tasks=2,
    at_once=2,
    width=2,
    channels=16,
    eye_width=8,
    name_steps=1,
    tuning_steps=1,
    rates=(0.0, 0.1),
    counts=(1.0,),
)


@jax.jit
def spectrograms(wave):
    """[recordings, samples] -> [recordings, FRAMES, MELS]."""
    length = wave.shape[1] - (wave[:, ::-1] != 0).argmax(axis=1)
    encoder = mj.nets.TemporalConv(MELS, 1, rngs=nnx.Rngs(0))  # which is not run
    front = mj.nets.Audio(encoder, rate=SAMPLE_RATE)
    series = front.series(mj.Series(wave[..., None], length))
    place = jnp.linspace(0, 1, FRAMES)[None] * (series.length - 1.0)[:, None]

    def stretch(place, bands):
        """Every band of one recording, read at these places."""
        frames = jnp.arange(len(bands))
        return jax.vmap(lambda band: jnp.interp(place, frames, band), 1, 1)(bands)

    return jax.vmap(stretch)(place, series.value)


def all_examples(dataset):
    """The x of every row, scaled as the data set declares."""
    return mj.data.take_examples(dataset, jnp.arange(len(dataset.y)))


def row_numbers(classes, each, info=()):
    """A data set of row numbers: tasks of it are filled with the features of any net."""
    labels = np.repeat(np.arange(classes), each)
    return mj.data.dataset(np.arange(classes * each), labels, info=info)


def fill(tasks, features):
    """The tasks with features in the place of row numbers."""

    def fill_batch(batch):
        return batch._replace(x=jax.tree.map(lambda leaf: leaf[batch.x], features))

    return tasks._replace(support=fill_batch(tasks.support), query=fill_batch(tasks.query))


def first_shots(tasks, shots, ways):
    """The tasks with weight 0 for the support examples after the first ones of each class."""
    first = functools.partial(mj.modalities.first_shots, shots=shots, ways=ways)
    return jax.vmap(first)(tasks)


def means_of(metrics):
    return {name: summary.mean for name, summary in metrics.items()}


def note(table, row, shots, value):
    """Adds the value of one more split to a row."""
    table.setdefault(row, {}).setdefault(shots, []).append(float(value))


def by_word(tasks):
    """The tasks with every word numbered as in the data, and not in the order drawn."""

    def renumber(batch):
        return batch._replace(y=batch.x // OF_SPEAKER)

    return tasks._replace(support=renumber(tasks.support), query=renumber(tasks.query))


def percents(by_shots):
    return {shots: common.percent(values) for shots, values in by_shots.items()}


class WordNets(NamedTuple):
    """What is learned from the training words of a split.

    Attributes:
        pretrained: params of the net that names them.
        meta: params of the net that compares them.
        named: params of the reader of names, on features of `meta`.
        rates: {shots: rate of fine-tuning}.
    """

    pretrained: mj.Params
    meta: mj.Params
    named: mj.Params
    rates: dict


class SpeakerNets(NamedTuple):
    """What is learned from some speakers.

    Attributes:
        pretrained: params of the net that names words, with its head.
        meta: params of the net that compares them.
        means: class means by the latter.
    """

    pretrained: mj.Params
    meta: mj.Params
    means: jax.Array


ENCODER = mj.nets.identity_encoder  # it reads features that are computed already
LOSS_OF_FEATURES = mj.losses.cross_entropy(mj.linear_head())
NOTHING = mj.Params({}, ())


class Net(NamedTuple):
    """The net for recordings.

    Attributes:
        start: its params before training.
        embed: features of recordings.
        features_of: the same, jitted.
        loss: of a linear head on the features.
        size: the number of features.
    """

    start: mj.Params
    embed: Callable
    features_of: Callable
    loss: mj.Loss
    size: int


def make_net(config):
    """The net before training."""
    size = FRAMES * config.width
    # The net keeps the order of time: its features are those of all frames, side by side. Each
    # recording is normalised by itself, so that its features do not depend on the rest of the
    # batch, and are computed once.
    apply, params = mj.nets.functional(
        mj.nets.TemporalConv(
            MELS,
            config.width,
            width=config.channels,
            blocks=2,
            stride=1,
            norm=mj.nets.GroupNorm,
            rngs=nnx.Rngs(0),
        )
    )
    start = mj.Params({}, params.fast)

    def frames_side_by_side(params, x):
        tokens, _ = apply(mj.Params({}, params.slow), x, method="tokens")
        return tokens.reshape(len(tokens), size) / FRAMES**0.5

    embed, _ = mj.nets.from_function(frames_side_by_side)
    features_of = jax.jit(embed)
    loss_of_sounds = mj.losses.cross_entropy(mj.linear_head(embed))
    return Net(start, embed, features_of, loss_of_sounds, size)


def fine_tuning(config):
    """Descent on a head, whose rate is in `params.rule`."""
    return mj.inner_loop(
        LOSS_OF_FEATURES,
        mj.shared_rate(0.0),
        steps=config.tuning_steps,
        differentiate=mj.first_order(),
    )


def drawer(config, classes, each, ways):
    """(key, info) -> tasks of row numbers, of data that are sorted by class."""
    sample = jax.jit(
        mj.data.meta_batch(mj.data.episodes(ways, max(config.shots), config.queries), config.tasks)
    )
    return lambda key, info=(): sample(row_numbers(classes, each, info), key)


def with_zero_head(net, ways):
    """The start of pretraining."""
    head = {"kernel": jnp.zeros((net.size, ways)), "bias": jnp.zeros(ways)}
    return net.start._replace(fast={"head": head})


def trainer(config, task_loss, sample, steps=None):
    """(params, data, key) -> params after training, compiled once for all splits."""
    steps = steps or config.steps
    optimizer = optax.adam(optax.cosine_decay_schedule(config.outer_rate, steps))
    outer = mj.outer_loop(task_loss, optimizer)

    @jax.jit
    def train(params, data, key):
        state = outer.init(params)
        state, _ = mj.training.scan(outer, state, sample, data, key, steps=steps)
        return state.params

    return train


def scorer(config, adaptation, ways, loss=LOSS_OF_FEATURES):
    """(params, tasks, shots) -> {metric: mean over tasks}, compiled once for all splits."""
    task_loss = mj.query_loss(adaptation, loss)

    @jax.jit
    def score(params, tasks, shots):
        few = first_shots(tasks, shots, ways)
        return means_of(
            mj.evaluate(task_loss, params, few, jax.random.key(0), tasks_at_once=config.at_once)
        )

    return score


def new_words(config, net, started):
    """Trains and tests on every split of the words.

    Returns:
        {row: {shots: [accuracy of every split]}}, the same for what was chosen, and the digests.
    """
    key = jax.random.key(0)
    # Data: the log-mel spectrogram of each recording, without silence, stretched to FRAMES frames.
    # Every recording has a written digit of the same value.
    digits = mj.data.paired_digits(seed=0)
    seen_and_heard = all_examples(digits).value
    sounds = np.asarray(spectrograms(seen_and_heard["audio"])).reshape(WORDS, EACH, FRAMES, MELS)
    pictures = np.asarray(seen_and_heard["image"]).reshape(WORDS, EACH, 28, 28, 1)

    # New words. Pretraining learns to name the training words; meta-training learns to tell words
    # apart from examples.
    pretrain_words = trainer(
        config, mj.supervised(net.loss), mj.data.meta_batch(mj.data.batches(60), 1)
    )

    def stitched(dataset, key):
        """Two tasks: of words, and of words that begin as one and end as another.

        Of the latter there are more. This and the net were chosen on two of the five training
        digits of each half, with the other three for training.
        """
        first_key, second_key, cut_key = jax.random.split(key, 3)
        sample = mj.data.episodes(WAYS, 1, 5)
        first = sample(dataset, first_key)
        second = sample(dataset, second_key)
        cut = jax.random.randint(cut_key, (), FRAMES // 4, 3 * FRAMES // 4 + 1)
        begins = (jnp.arange(FRAMES) < cut)[None, :, None]

        def join(one, other):
            return one._replace(x=jnp.where(begins, one.x, other.x))

        joined = mj.Task(join(first.support, second.support), join(first.query, second.query))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), first, joined)

    meta_train_words = trainer(
        config, mj.query_loss(mj.prototypes(net.embed, WAYS), net.loss), stitched
    )
    draw_words = drawer(config, WAYS, EACH, WAYS)
    draw_held_out = drawer(config, WAYS, EACH // 4, WAYS)
    class_means = scorer(config, mj.prototypes(ENCODER, WAYS), WAYS)

    # Fine-tuning: the head of class means, then descent with a rate that is stored in params.rule.
    tuned_words = scorer(
        config, mj.chain(head=mj.prototypes(ENCODER, WAYS), descent=fine_tuning(config)), WAYS
    )

    def at_rate(rate):
        return NOTHING._replace(rule={"head": (), "descent": jnp.asarray(rate)})

    # Names as side information about the classes: AM3 relies on what a GRU makes of the letters.
    letters = np.array(
        [[ord(letter) - 96 for letter in name.ljust(5, "`")] for name in digits.names], np.int32
    )  # 1 for "a"; 0 is padding
    read_letters, reader = mj.nets.functional(
        mj.nets.Text(27, mj.nets.GRU(32, net.size, rngs=nnx.Rngs(1)), rngs=nnx.Rngs(1))
    )

    def describe(params, info, key=None):
        return read_letters(mj.Params({}, params.slow["letters"]), info)

    with_names = mj.modalities.adaptive_prototypes(ENCODER, describe, WAYS, net.size)
    name_loss = mj.query_loss(with_names, LOSS_OF_FEATURES)

    def with_and_without_shots(params, task, key):
        """The name must be of use beside shots, and alone."""
        no_shots = task.support._replace(weight=jnp.zeros(len(task.support.y)))
        value, metrics = name_loss(params, task, key)
        alone, _ = name_loss(params, task._replace(support=no_shots), key)
        return value + alone, metrics

    learn_names = trainer(
        config,
        with_and_without_shots,
        mj.data.meta_batch(mj.data.episodes(WAYS, 1, 5), 4),
        steps=config.name_steps,
    )

    @jax.jit
    def score_names(params, tasks, shots):
        """{control: {metric: mean over tasks}}."""
        few = first_shots(tasks, shots, WAYS)
        found = mj.modalities.compare_side_information(
            name_loss, params, few, key, tasks_at_once=config.at_once
        )
        return {control: means_of(metrics) for control, metrics in found.items()}

    # Written digits: a Conv4 that has learned to compare characters of Omniglot, and no digits.
    see, eye = mj.nets.functional(
        mj.nets.Conv4(
            config.eye_width, width=config.eye_width, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(2)
        )
    )
    look, _ = mj.nets.from_function(lambda params, x: see(mj.Params({}, params.slow), x))
    loss_of_pictures = mj.losses.cross_entropy(mj.linear_head(look))
    learn_to_look = trainer(
        config,
        mj.query_loss(mj.prototypes(look, 20), loss_of_pictures),
        mj.data.meta_batch(mj.data.episodes(20, 1, 3), 1),
        steps=2 * config.steps,
    )
    eye = learn_to_look(mj.Params({}, eye.fast), mj.data.omniglot(), key)
    views = jax.jit(look)(eye, pictures.reshape(-1, 28, 28, 1)).reshape(WORDS, EACH, -1)
    both_loss = mj.losses.cross_entropy(mj.modalities.late_head(ENCODER))
    score_both = scorer(config, mj.modalities.modal_prototypes(ENCODER, WAYS), WAYS, both_loss)

    def learn_words(words, split_key):
        """Trains all nets on these words. A quarter of the recordings serve to choose a rate."""
        kept = np.arange(EACH) % 4 < 3
        data = mj.data.dataset(
            sounds[words][:, kept].reshape(-1, FRAMES, MELS), np.repeat(np.arange(WAYS), kept.sum())
        )
        pretrained = pretrain_words(with_zero_head(net, WAYS), data, split_key)
        meta = meta_train_words(net.start, data, split_key)

        features = mj.data.dataset(
            np.asarray(net.features_of(meta, data.x)), data.y, info=letters[words]
        )
        named = with_names.init(mj.Params({}, {"letters": reader.fast}), key)
        named = learn_names(named, features, split_key)

        # The rate is chosen by the loss: training words are told apart without a fault, so that
        # accuracy would choose NOTHING.
        held_out = net.features_of(pretrained, sounds[words][:, ~kept].reshape(-1, FRAMES, MELS))
        tasks = fill(draw_held_out(split_key, letters[words]), held_out)
        rates = {}
        for shots in config.shots:
            losses = [tuned_words(at_rate(rate), tasks, shots)["loss"] for rate in config.rates]
            rates[shots] = config.rates[int(np.argmin(losses))]
        return WordNets(pretrained, meta, named, rates)

    def test_words(nets, words, split_key):
        """{shots: {row: {metric: mean over tasks}}} on words never heard."""
        tasks = draw_words(split_key, letters[words])
        new = sounds[words].reshape(-1, FRAMES, MELS)
        plain = fill(tasks, new.reshape(len(new), -1))
        pretrained = fill(tasks, net.features_of(nets.pretrained, new))
        heard = net.features_of(nets.meta, new)
        meta = fill(tasks, heard)
        modalities = {"image": views[words].reshape(len(new), -1), "audio": heard}
        every = jnp.ones(len(new), bool)
        both = fill(tasks, mj.Modalities(modalities, {"image": every, "audio": every}))
        written = fill(tasks, mj.Modalities(modalities, {"image": every, "audio": ~every}))
        found = {}
        for shots in config.shots:
            rate = at_rate(nets.rates[shots])
            names = score_names(nets.named, meta, shots)
            found[shots] = {
                "log-mel, class means": class_means(NOTHING, plain, shots),
                "pretrained, class means": class_means(NOTHING, pretrained, shots),
                "pretrained, fine-tuned head": tuned_words(rate, pretrained, shots),
                "meta-trained, class means": class_means(NOTHING, meta, shots),
                **{f"name, {control}": metrics for control, metrics in names.items()},
                "written digit": score_both(NOTHING, written, shots),
                "written and spoken": score_both(NOTHING, both, shots),
            }
        return found

    halves = []  # (training words, test words) of every split
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(WORDS)
        halves += [(order[:WAYS], order[WAYS:]), (order[WAYS:], order[:WAYS])]
    halves = halves[: config.splits]

    rows = {}  # {row: {shots: [accuracy of every split]}}
    chosen = {}  # the same for what was chosen
    digests = []
    for split, (train, test) in enumerate(halves):
        split_key = jax.random.fold_in(key, split)
        parts = {
            "train": [digits.names[word] for word in train],
            "test": [digits.names[word] for word in test],
        }
        digests.append(mj.data.class_split("words", parts).digest)
        nets = learn_words(train, split_key)
        for shots, found in test_words(nets, test, split_key).items():
            note(chosen, "rate", shots, nets.rates[shots])
            for row, metrics in found.items():
                note(rows, row, shots, metrics["accuracy"])
        print(f"words, split {split}: {time.perf_counter() - started:.0f} s", flush=True)
    return rows, chosen, digests


def new_speakers(config, net, started):
    """Trains and tests on every fold of the speakers. Returns the same as `new_words`."""
    key = jax.random.key(0)
    voices = [
        spectrograms(all_examples(mj.data.spoken_digits(speakers=[name])))
        for name in config.speakers
    ]
    voices = jnp.stack(voices)  # [speakers, WORDS * OF_SPEAKER, FRAMES, MELS]

    chosen = {}
    digests = []
    # New speakers. The support set of a training task is of one speaker, and its query set of the
    # same or of another. The data of training are (voices, the probability of each speaker).
    speaker_rows = row_numbers(WORDS, OF_SPEAKER)

    def across_speakers(data, key):
        """A task between two speakers."""
        voices, probability = data
        support_key, query_key, task_key = jax.random.split(key, 3)
        asked = voices[jax.random.choice(support_key, len(voices), p=probability)]
        answers = voices[jax.random.choice(query_key, len(voices), p=probability)]
        task = mj.data.episodes(WORDS, 1, 3)(speaker_rows, task_key)
        support = task.support._replace(x=asked[task.support.x])
        query = task.query._replace(x=answers[task.query.x])
        return mj.Task(support, query)

    def recordings(data, key):
        """A batch of recordings with their words."""
        voices, probability = data
        speaker_key, row_key = jax.random.split(key)
        speaker = jax.random.choice(speaker_key, len(voices), (60,), p=probability)
        row = jax.random.randint(row_key, (60,), 0, voices.shape[1])
        return mj.Batch(voices[speaker, row], row // OF_SPEAKER)

    pretrain_speakers = trainer(config, mj.supervised(net.loss), mj.data.meta_batch(recordings, 1))
    meta_train_speakers = trainer(
        config,
        mj.query_loss(mj.prototypes(net.embed, WORDS), net.loss),
        mj.data.meta_batch(across_speakers, 2),
    )

    def trust_others(params, support, key):
        """Class means of the shots and of other speakers, who count as `count` shots.

        This is the MAP estimate of Gauvain and Lee 1994.
        """
        means = params.slow["means"]
        x = jnp.concatenate([means, support.x])
        y = jnp.concatenate([jnp.arange(WORDS), support.y])
        weight = jnp.concatenate([jnp.full(WORDS, params.slow["count"]), support.weight])
        return mj.prototypes(ENCODER, WORDS).adapt(params, mj.Batch(x, y, weight), key)

    trusting = scorer(config, mj.Adaptation(lambda params, key: params, trust_others), WORDS)
    tuned_speakers = scorer(config, fine_tuning(config), WORDS)
    class_means_speakers = scorer(config, mj.prototypes(ENCODER, WORDS), WORDS)
    draw_speaker = drawer(config, WORDS, OF_SPEAKER, WORDS)

    def learn_speakers(speakers, fold_key):
        probability = jnp.isin(jnp.arange(len(voices)), jnp.array(speakers)) / len(speakers)
        data = (voices, probability)
        pretrained = pretrain_speakers(with_zero_head(net, WORDS), data, fold_key)
        meta = meta_train_speakers(net.start, data, fold_key)
        means = []
        for speaker in speakers:
            features = net.features_of(meta, voices[speaker])
            means.append(features.reshape(WORDS, OF_SPEAKER, -1).mean(axis=1))
        return SpeakerNets(pretrained, meta, jnp.stack(means).mean(axis=0))

    def tune(nets, tasks, shots, rate):
        """Accuracy after fine-tuning the pretrained head."""
        params = mj.Params(nets.pretrained.fast, (), jnp.asarray(rate))
        return tuned_speakers(params, tasks, shots)["accuracy"]

    def trust(nets, tasks, shots, count):
        """Accuracy of class means of the shots and of others, who count as so many shots."""
        params = mj.Params({}, {"means": nets.means, "count": jnp.asarray(count)})
        return trusting(params, tasks, shots)["accuracy"]

    def choose(nets, speaker, tasks, shots):
        """The rate and the count with the highest accuracy on a speaker."""
        pretrained = fill(tasks, net.features_of(nets.pretrained, voices[speaker]))
        meta = fill(tasks, net.features_of(nets.meta, voices[speaker]))
        by_rate = [tune(nets, pretrained, shots, rate) for rate in config.rates]
        by_count = [trust(nets, meta, shots, count) for count in config.counts]
        return config.rates[int(np.argmax(by_rate))], config.counts[int(np.argmax(by_count))]

    def test_speaker(nets, speaker, tasks, shots, rate, count):
        """{row: accuracy} on a speaker never heard."""
        voice = voices[speaker]
        plain = fill(tasks, voice.reshape(len(voice), -1))
        pretrained = fill(tasks, net.features_of(nets.pretrained, voice))
        meta = fill(tasks, net.features_of(nets.meta, voice))
        return {
            "no shot, pretrained": tune(nets, pretrained, shots, 0.0),
            "no shot, class means of the others": trust(nets, meta, shots, 1e6),
            "log-mel, class means": class_means_speakers(NOTHING, plain, shots)["accuracy"],
            "meta-trained, class means": class_means_speakers(NOTHING, meta, shots)["accuracy"],
            "pretrained, fine-tuned head": tune(nets, pretrained, shots, rate),
            "meta-trained, shots and others": trust(nets, meta, shots, count),
        }

    rows = {}  # {row: {shots: [accuracy of every fold]}}
    for tested in range(len(config.speakers)):
        fold_key = jax.random.fold_in(key, 100 + tested)
        validation = (tested + 1) % len(config.speakers)
        others = [speaker for speaker in range(len(config.speakers)) if speaker != tested]
        parts = {
            "train": [config.speakers[speaker] for speaker in others],
            "test": [config.speakers[tested]],
        }
        digests.append(mj.data.class_split("speakers", parts).digest)
        to_choose = learn_speakers([other for other in others if other != validation], fold_key)
        nets_of_speakers = learn_speakers(others, fold_key)
        tasks = by_word(draw_speaker(fold_key))
        for shots in config.shots:
            rate, count = choose(to_choose, validation, tasks, shots)
            note(chosen, "rate for speakers", shots, rate)
            note(chosen, "count of others", shots, count)
            accuracies = test_speaker(nets_of_speakers, tested, tasks, shots, rate, count)
            for row, accuracy in accuracies.items():
                note(rows, row, shots, accuracy)
        print(
            f"speakers, {config.speakers[tested]}: {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return rows, chosen, digests


def main(config, out):
    """Measures both, and prints, writes and draws what was found."""
    started = time.perf_counter()
    net = make_net(config)
    of_words, chosen, digests_of_words = new_words(config, net, started)
    of_speakers, also_chosen, digests_of_speakers = new_speakers(config, net, started)
    chosen |= also_chosen
    digests = {"new words": digests_of_words, "new speakers": digests_of_speakers}
    took = time.perf_counter() - started

    # The table.
    rows = {
        "new words": {row: percents(by_shots) for row, by_shots in of_words.items()},
        "new speakers": {row: percents(by_shots) for row, by_shots in of_speakers.items()},
    }

    def less(table, row, other):
        """The differences of two rows, paired by split or fold."""
        return percents(
            {shots: np.subtract(table[row][shots], table[other][shots]) for shots in config.shots}
        )

    compared = "meta-trained, class means"
    tuned = "pretrained, fine-tuned head"
    trusted = "meta-trained, shots and others"
    paired = {
        "meta-trained minus log-mel": less(of_words, compared, "log-mel, class means"),
        "meta-trained minus pretrained": less(of_words, compared, "pretrained, class means"),
        "meta-trained minus fine-tuned": less(of_words, compared, tuned),
        "name minus none": less(of_words, "name, given", compared),
        "name minus permuted name": less(of_words, "name, given", "name, permuted"),
        "both minus written": less(of_words, "written and spoken", "written digit"),
        "both minus spoken": less(of_words, "written and spoken", compared),
        "speaker's shots and others minus no shot": less(
            of_speakers, trusted, "no shot, class means of the others"
        ),
        "fine-tuned minus no shot": less(of_speakers, tuned, "no shot, pretrained"),
        "shots and others minus fine-tuned": less(of_speakers, trusted, tuned),
    }
    for title, part in {**rows, "paired differences": paired}.items():
        header = "   ".join(f"{common.shots_label(shots):>11}" for shots in config.shots)
        print(f"\n{title:<42}{header}")
        for row, by_shots in part.items():
            cells = "   ".join(f"{common.cell(value):>11}" for value in by_shots.values())
            print(f"{row:<42}{cells}")
    report = {
        **common.header(),
        "seconds": took,
        "sizes": {
            "steps": config.steps,
            "splits": len(digests_of_words),
            "folds": len(config.speakers),
            "tasks": config.tasks,
        },
        "digests": digests,
        "rows": rows,
        "paired": paired,
        "chosen": chosen,
        "folds": of_speakers,
    }
    common.finish(out, "speech", report, plot)


def plot(report, path):
    """Recordings of five words by two speakers, and the accuracy of every row."""
    figure = plt.figure(figsize=(14, 5))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.6))
    panels = left.subplots(5, 2)
    for column, speaker in zip(panels.T, Config().speakers, strict=False):
        recordings = mj.data.spoken_digits(speakers=[speaker])
        rows = np.asarray(recordings.start)[: len(column)]
        waves = mj.data.take_examples(recordings, jnp.asarray(rows))
        for axes, bands in zip(column, spectrograms(waves), strict=True):
            axes.imshow(bands.T, origin="lower", aspect="auto", cmap="magma")
            axes.set(xticks=[], yticks=[])
        column[0].set_title(speaker, fontsize=9)
    for axes, name in zip(panels[:, 0], recordings.names, strict=False):
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    titles = {
        "new words": f"New words, {WAYS}-way",
        "new speakers": f"A new speaker, {WORDS} words",
    }
    chances = 1 / WAYS, 1 / WORDS
    for axes, (part, title), chance in zip(
        right.subplots(1, 2), titles.items(), chances, strict=True
    ):
        by_shots = {}
        for row, of_row in report["rows"][part].items():
            for shots, value in of_row.items():
                by_shots.setdefault(shots, {})[row] = value
        common.draw_accuracies(axes, by_shots, title=title, chance=chance)
    sizes = report["sizes"]
    text = (
        f"95 % intervals over {sizes['splits']} splits of the words and {sizes['folds']} speakers"
    )
    common.save(figure, path, f"{text}, each with nets of its own")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", "splits", description=__doc__)
