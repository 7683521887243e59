"""Tasks without labels, with wrong ones, and one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import metajax as mj
from metajax.data.tasks.partial_labels import noisy_labels, semi_supervised
from metajax.data.tasks.sequences import continual
from metajax.data.tasks.varied import varied_episodes

KEY = jax.random.key(0)


def rows(classes=8, each=10, **options):
    """An example is the number of its row; `each` of a class."""
    return mj.data.dataset(
        np.arange(classes * each)[:, None].astype(np.int32),
        np.arange(classes * each) // each,
        **options,
    )


def many(sample, source, number, key=KEY):
    tasks = jax.tree.map(np.asarray, jax.jit(mj.data.meta_batch(sample, number))(source, key))
    return [jax.tree.map(lambda leaf: leaf[n], tasks) for n in range(number)]  # noqa: B023


@pytest.mark.parametrize("distractors", [0, 2])
def test_unlabelled_examples_are_of_the_task_and_of_distractors(distractors):
    sample = semi_supervised(3, 2, 2, unlabelled=4, distractors=distractors)
    orders = set()
    for task in many(sample, rows(info=np.arange(8.0)), 100):
        support, owner = task.support, task.support.x[:, 0] // 10
        hidden = support.reference & (support.weight == 0)
        assert support.reference.all() and support.weight.dtype == np.float32
        np.testing.assert_array_equal(hidden, np.arange(len(hidden)) >= 6)
        np.testing.assert_array_equal(support.y, [0, 0, 1, 1, 2, 2] + [0] * hidden.sum())
        classes = owner[:6:2]
        np.testing.assert_array_equal(owner[:6], np.repeat(classes, 2))
        np.testing.assert_array_equal(task.query.x[:, 0] // 10, np.repeat(classes, 2))
        np.testing.assert_array_equal(task.query.y, np.repeat(np.arange(3), 2))
        np.testing.assert_array_equal(support.info, classes)
        number = np.bincount(owner[hidden], minlength=8)
        assert (
            set(number) == {0, 4}
            and (number > 0).sum() == 3 + distractors
            and (number[classes] == 4).all()
        )
        both = [*support.x[:, 0], *task.query.x[:, 0]]
        assert len(set(both)) == len(both)
        orders.add(
            tuple(classes.tolist().index(one) if one in classes else -1 for one in owner[hidden])
        )
    assert len(orders) > 90, "their order gives no label away"


def test_unlabelled_examples_are_drawn_uniformly():
    tasks = jax.jit(
        mj.data.meta_batch(semi_supervised(2, 1, 1, unlabelled=1, distractors=1), 4000)
    )(rows(), KEY)
    for row in (2, 4):  # the places of unlabelled examples are alike
        assert (
            scipy.stats.chisquare(
                np.bincount(np.asarray(tasks.support.x)[:, row, 0], minlength=80)
            ).pvalue
            > 1e-3
        )


def clusters(classes=12, each=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(classes, each, 4)) + 1.5 * rng.normal(size=(classes, 1, 4))
    return mj.data.dataset(x.reshape(-1, 4), np.arange(classes * each) // each)


def test_who_does_not_read_them_is_the_supervised_baseline_and_who_does_knows_more():
    """Soft k-means from the prototypes, as Ren et al. do, as an adaptation of a few lines."""
    embed = lambda params, x, key=None, *, reference=None: x
    plain, head = mj.prototypes(embed, 3), mj.linear_head(embed)

    def adapt(params, support, key):
        guess = jax.nn.softmax(head(plain.adapt(params, support, key), support.x))
        known = support.weight[:, None] * jax.nn.one_hot(support.y, 3)
        hidden = support.reference & (support.weight == 0)
        share = known + hidden[:, None] * guess
        means = share.T @ support.x / share.sum(axis=0)[:, None]
        written = {"kernel": 2 * means.T, "bias": -(means**2).sum(axis=1)}
        return params._replace(fast={"head": written})

    loss, params = mj.losses.cross_entropy(head), mj.Params({}, {})
    tasks = jax.jit(mj.data.meta_batch(semi_supervised(3, 1, 5, unlabelled=5), 300))(
        clusters(), KEY
    )
    known = tasks._replace(
        support=jax.vmap(lambda batch: mj.take(batch, jnp.arange(3)))(tasks.support)
    )
    judge = lambda adaptation, tasks: mj.evaluate(
        mj.query_loss(adaptation, loss), params, tasks, KEY
    )["accuracy"]
    baseline, blind = judge(plain, known), judge(plain, tasks)
    np.testing.assert_array_equal(baseline.per_task, blind.per_task)
    gain = (
        judge(mj.Adaptation(lambda params, key: params, adapt), tasks).per_task - baseline.per_task
    )
    assert gain.mean() > 0.02 and gain.mean() > 3 * gain.std() / 300**0.5


def test_wrong_labels_are_as_many_as_asked_and_uniform():
    source, clean = rows(), mj.data.episodes(4, 3, 2)
    keys = jax.vmap(lambda key: jax.random.split(key, 3)[0])(jax.random.split(KEY, 1000))
    right = jax.jit(jax.vmap(clean, (None, 0)))(source, keys)
    for rate in (0.0, 0.3):
        noisy = jax.jit(mj.data.meta_batch(noisy_labels(clean, rate), 1000))(source, KEY)
        np.testing.assert_array_equal(noisy.support.x, right.support.x)
        jax.tree.map(np.testing.assert_array_equal, noisy.query, right.query)
        wrong = np.asarray(noisy.support.y != right.support.y)
        assert noisy.support.y.dtype == jnp.int32
        assert scipy.stats.binomtest(int(wrong.sum()), wrong.size, rate).pvalue > 1e-3
        for label in range(4 if rate else 0):
            given = np.asarray(noisy.support.y)[wrong & (np.asarray(right.support.y) == label)]
            number = np.bincount(given, minlength=4)
            assert len(number) == 4 and number[label] == 0
            assert scipy.stats.chisquare(np.delete(number, label)).pvalue > 1e-3


def test_wrong_labels_are_those_of_the_task_and_padding_stays():
    varied = varied_episodes((1, 4), support=12, queries=2)
    ways = set()
    for task in many(noisy_labels(varied, 1.0), rows(), 100):
        used = task.support.weight > 0
        owner = task.support.x[used, 0] // 10
        number = len(set(owner))
        assert (task.support.y[~used] == 0).all() and task.support.y.max() < number
        ways.add(number)
    assert ways == {1, 2, 3, 4}
    task = jax.jit(noisy_labels(semi_supervised(2, 2, 1, unlabelled=3), 1.0))(rows(), KEY)
    np.testing.assert_array_equal(task.support.y, [1, 1, 0, 0] + [0] * 6)


def test_a_stream_never_comes_back():
    source = rows(info=np.arange(8.0))
    for local in (False, True):
        for stream in many(continual(2, 3, 2, 3, local=local), source, 50):
            assert stream.support.x.shape == (3, 4, 1) and stream.query.x.shape == (3, 6, 1)
            owner = stream.support.x[..., 0] // 10
            assert len(set(owner.reshape(-1).tolist())) == 6
            np.testing.assert_array_equal(
                stream.query.x[..., 0] // 10, np.repeat(owner[:, ::2], 3, axis=1)
            )
            rows_seen = [*stream.support.x.reshape(-1), *stream.query.x.reshape(-1)]
            assert len(set(rows_seen)) == len(rows_seen)
            labels = np.arange(6).reshape(3, 2) % (2 if local else 6)
            np.testing.assert_array_equal(stream.support.y, np.repeat(labels, 2, axis=1))
            np.testing.assert_array_equal(stream.query.y, np.repeat(labels, 3, axis=1))
            assert stream.support.y.dtype == np.int32
            for now in range(3):  # what is known of a class is where its label says
                np.testing.assert_array_equal(
                    stream.support.info[now][stream.support.y[now]], owner[now]
                )
            assert stream.support.info.shape == ((3, 2) if local else (3, 6))


def test_a_stream_is_learned_in_a_scan():
    """Class means that grow: at the end, one head tells all classes apart."""
    x = np.repeat(10 * np.eye(6), 5, axis=0) + np.random.default_rng(0).normal(size=(30, 6))
    stream = continual(2, 3, 2, 3)(mj.data.dataset(x, np.arange(30) // 5), KEY)

    def learn(sums, task):
        return sums + jax.nn.one_hot(task.support.y, 6).T @ task.support.x, None

    means = jax.lax.scan(learn, jnp.zeros((6, 6)), stream)[0]
    seen = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stream.query)
    np.testing.assert_array_equal((seen.x @ means.T).argmax(axis=1), seen.y)


def test_rotations_make_more_classes():
    source = mj.data.dataset(
        np.random.default_rng(0).integers(0, 255, (12, 4, 4, 1)).astype(np.uint8),
        np.arange(12) // 6,
    )
    assert jax.eval_shape(continual(2, 4, 1, 1, rotations=True), source, KEY).support.x.shape == (
        4,
        2,
        4,
        4,
        1,
    )
    task = jax.eval_shape(
        semi_supervised(5, 1, 1, unlabelled=2, distractors=3, rotations=True), source, KEY
    )
    assert task.support.x.shape == (5 + 16, 4, 4, 1) and task.support.x.dtype == jnp.float32


def test_errors_say_what_to_do():
    source = rows()
    with pytest.raises(ValueError, match="unlabelled must be a whole number, 1 or more, got 0"):
        semi_supervised(2, 1, 1, unlabelled=0)
    with pytest.raises(ValueError, match="distractors must be a whole number, 0 or more, got -1"):
        semi_supervised(2, 1, 1, unlabelled=1, distractors=-1)
    with pytest.raises(
        ValueError, match="ways=5 and distractors=4 must not exceed the number of classes, 8"
    ):
        semi_supervised(5, 1, 1, unlabelled=1, distractors=4)(source, KEY)
    with pytest.raises(
        ValueError,
        match=r"shots=1, unlabelled=8, queries=2 must not exceed together the 10 examples",
    ):
        jax.jit(semi_supervised(5, 1, 2, unlabelled=8))(source, KEY)
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"rate=.* must be a probability"):
            noisy_labels(mj.data.episodes(2, 1, 1), rate)
    with pytest.raises(ValueError, match=r"must be int\[examples\], got float32\[5, 1\]"):
        noisy_labels(mj.data.sinusoids(5, 5), 0.1)((), KEY)
    with pytest.raises(ValueError, match=r"must be int\[examples\], got int32\[2, 2\]"):
        noisy_labels(continual(2, 2, 1, 1), 0.1)(source, KEY)
    with pytest.raises(ValueError, match="tasks must be a whole number, 1 or more, got 0"):
        continual(2, 0, 1, 1)
    with pytest.raises(
        ValueError, match="ways=3 in each of tasks=3 must not exceed the number of classes, 8"
    ):
        continual(3, 3, 1, 1)(source, KEY)
    with pytest.raises(
        ValueError, match="shots=6, queries=5 must not exceed together the 10 examples"
    ):
        continual(2, 2, 6, 5)(source, KEY)
