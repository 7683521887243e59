"""Tasks of which some labels are missing or wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from drawn_tasks import KEY, draw, draw_list

import metajax as mj
from metajax.data.tasks.partial_labels import noisy_labels, semi_supervised
from metajax.data.tasks.varied import varied_episodes


def rows(**options):
    """Eight classes of ten examples; an example is the number of its row."""
    x = np.arange(80, dtype=np.int32)[:, None]
    return mj.data.dataset(x, np.arange(80) // 10, **options)


@pytest.mark.parametrize("distractors", [0, 2])
def test_unlabelled_examples_are_of_the_task_and_of_distractors(distractors):
    sample = semi_supervised(3, 2, 2, unlabelled=4, distractors=distractors)
    orders = set()
    for task in draw_list(sample, 100, rows(info=np.arange(8.0))):
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
        assert set(number) == {0, 4} and (number > 0).sum() == 3 + distractors
        assert (number[classes] == 4).all()
        both = [*support.x[:, 0], *task.query.x[:, 0]]
        assert len(set(both)) == len(both)
        labels = {owned: label for label, owned in enumerate(classes.tolist())}
        orders.add(tuple(labels.get(owned, -1) for owned in owner[hidden].tolist()))
    assert len(orders) > 90, "their order gives no label away"


def test_unlabelled_examples_are_drawn_uniformly():
    sample = semi_supervised(2, 1, 1, unlabelled=1, distractors=1)
    support = draw(sample, 4000, rows()).support
    for place in (2, 4):  # the places of unlabelled examples are alike
        count = np.bincount(support.x[:, place, 0], minlength=80)
        assert scipy.stats.chisquare(count).pvalue > 1e-3


def clusters(classes=12, each=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(classes, each, 4)) + 1.5 * rng.normal(size=(classes, 1, 4))
    return mj.data.dataset(x.reshape(-1, 4), np.arange(classes * each) // each)


def refine(plain, head):
    """One step of soft k-means from the prototypes, as Ren et al. do, as an adaptation."""

    def adapt(params, support, key):
        guess = jax.nn.softmax(head(plain.adapt(params, support, key), support.x))
        labelled = support.weight[:, None] * jax.nn.one_hot(support.y, 3)
        hidden = support.reference & (support.weight == 0)
        share = labelled + hidden[:, None] * guess
        means = share.T @ support.x / share.sum(axis=0)[:, None]
        written = {"kernel": 2 * means.T, "bias": -(means**2).sum(axis=1)}
        return params._replace(fast={"head": written})

    return mj.Adaptation(lambda params, key: params, adapt)


def test_the_baseline_ignores_unlabelled_examples_and_they_help_who_reads_them():
    encode = mj.nets.identity_encoder
    plain, head = mj.prototypes(encode, 3), mj.linear_head(encode)
    loss = mj.losses.cross_entropy(head)
    tasks = draw(semi_supervised(3, 1, 5, unlabelled=5), 300, clusters())
    first_rows = jax.vmap(lambda batch: mj.take(batch, jnp.arange(3)))
    labelled = tasks._replace(support=first_rows(tasks.support))

    def accuracy(adaptation, tasks):
        task_loss = mj.query_loss(adaptation, loss)
        return mj.evaluate(task_loss, mj.Params({}, {}), tasks, KEY)["accuracy"].per_task

    baseline = accuracy(plain, labelled)
    np.testing.assert_array_equal(baseline, accuracy(plain, tasks))
    gain = accuracy(refine(plain, head), tasks) - baseline
    assert gain.mean() > 0.02 and gain.mean() > 3 * gain.std() / 300**0.5


def test_wrong_labels_are_as_many_as_asked_and_uniform():
    clean = mj.data.episodes(4, 3, 2)
    right = draw(lambda dataset, key: clean(dataset, jax.random.split(key, 3)[0]), 1000, rows())
    for rate in (0.0, 0.3):
        noisy = draw(noisy_labels(clean, rate), 1000, rows())
        np.testing.assert_array_equal(noisy.support.x, right.support.x)
        jax.tree.map(np.testing.assert_array_equal, noisy.query, right.query)
        wrong = noisy.support.y != right.support.y
        assert noisy.support.y.dtype == np.int32
        assert scipy.stats.binomtest(int(wrong.sum()), wrong.size, rate).pvalue > 1e-3
        for label in range(4 if rate else 0):
            given = noisy.support.y[wrong & (right.support.y == label)]
            number = np.bincount(given, minlength=4)
            assert len(number) == 4 and number[label] == 0
            assert scipy.stats.chisquare(np.delete(number, label)).pvalue > 1e-3


def test_wrong_labels_are_those_of_the_task_and_padding_stays():
    varied = varied_episodes((1, 4), support=12, queries=2)
    ways = set()
    for task in draw_list(noisy_labels(varied, 1.0), 100, rows()):
        used = task.support.weight > 0
        owner = task.support.x[used, 0] // 10
        number = len(set(owner))
        assert (task.support.y[~used] == 0).all() and task.support.y.max() < number
        ways.add(number)
    assert ways == {1, 2, 3, 4}
    task = jax.jit(noisy_labels(semi_supervised(2, 2, 1, unlabelled=3), 1.0))(rows(), KEY)
    np.testing.assert_array_equal(task.support.y, [1, 1, 0, 0] + [0] * 6)


def test_a_row_without_a_label_gets_none():
    y = jnp.array([0, -1, 1, -1])

    def sample(dataset, key):
        return mj.Task(mj.Batch(dataset, y), mj.Batch(dataset, y))

    noisy = noisy_labels(sample, 1.0)(jnp.zeros((4, 1)), KEY)
    np.testing.assert_array_equal(noisy.support.y, [1, -1, 0, -1])


def test_unlabelled_examples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="unlabelled must be a whole number, 1 or more, got 0"):
        semi_supervised(2, 1, 1, unlabelled=0)
    with pytest.raises(ValueError, match="distractors must be a whole number, 0 or more, got -1"):
        semi_supervised(2, 1, 1, unlabelled=1, distractors=-1)
    with pytest.raises(
        ValueError, match="ways=5 and distractors=4 must not exceed the number of classes, 8"
    ):
        semi_supervised(5, 1, 1, unlabelled=1, distractors=4)(rows(), KEY)
    with pytest.raises(
        ValueError,
        match=r"shots=1, unlabelled=8, queries=2 together must not exceed the 10 examples",
    ):
        jax.jit(semi_supervised(5, 1, 2, unlabelled=8))(rows(), KEY)


def test_bad_labels_and_rates_are_refused():
    for rate in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"rate=.* must be a probability"):
            noisy_labels(mj.data.episodes(2, 1, 1), rate)
    with pytest.raises(ValueError, match="rate must be a finite real number, got nan"):
        noisy_labels(mj.data.episodes(2, 1, 1), float("nan"))
    with pytest.raises(ValueError, match=r"Support labels must be int\[examples\], got float32\[5"):
        noisy_labels(mj.data.sinusoids(5, 5), 0.1)((), KEY)
    with pytest.raises(ValueError, match=r"must be int\[examples\], got int32\[2, 2\]"):
        noisy_labels(mj.data.continual(2, 2, 1, 1), 0.1)(rows(), KEY)
