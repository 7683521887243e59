"""Augmentation of what samplers draw."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from problems import assert_close

import metajax as mj
from metajax.data.augment.geometry import affine
from metajax.data.augment.images import crop, flip
from metajax.data.augment.labels import permuted_labels
from metajax.data.augment.tasks import augmented, mixup

KEY = jax.random.key(0)
EPISODES = mj.data.episodes(ways=3, shots=2, queries=3)


@functools.cache
def images():
    x = np.random.default_rng(0).integers(1, 255, (30, 6, 6, 1)).astype(np.uint8)
    return mj.data.dataset(x, np.arange(30) % 6, info={"number": np.arange(6)}, scale=255)


def first_rows(dataset, key):
    """A sampler of always the same task of three classes, one of them in both sets."""

    def part(low, high):
        x = jax.tree.map(lambda leaf: leaf[low:high], dataset.x)
        return mj.Batch(x, dataset.y[low:high])

    return mj.Task(part(0, 6), part(6, 15))


def mark(x, key):
    """An augmentation that shows its draw."""
    return jnp.full(x.shape, jax.random.uniform(key, (), jnp.float32))


def marks(task):
    return [np.asarray(batch.x)[:, 0, 0, 0] for batch in (task.support, task.query)]


def draw(sample, key=KEY, source=None):
    return jax.jit(sample)(images() if source is None else source, key)


def test_each_example_has_a_draw_of_its_own():
    task = draw(augmented(EPISODES, mark))
    plain = draw(EPISODES, jax.random.split(KEY)[0])
    assert len(np.unique(np.concatenate(marks(task)))) == 15
    assert_close(plain, task._replace(support=task.support._replace(x=plain.support.x),
                                      query=task.query._replace(x=plain.query.x)), 0)  # fmt: skip
    batch = draw(augmented(mj.data.batches(8), mark))
    assert isinstance(batch, mj.Batch) and len(np.unique(np.asarray(batch.x)[:, 0, 0, 0])) == 8


@pytest.mark.parametrize("per", ["class", "task", "pair of rows"])
def test_a_group_shares_its_draw_in_support_and_query_set(per):
    group = {
        "class": lambda batch: batch.y,
        "task": lambda batch: 0,
        "pair of rows": lambda batch: jnp.arange(len(batch.y)) // 2,
    }[per]
    task = draw(augmented(first_rows, mark, group=group))
    number = np.concatenate(
        [np.broadcast_to(group(batch), 3 * k) for k, batch in ((2, task.support), (3, task.query))]
    )
    drawn = np.concatenate(marks(task))
    np.testing.assert_array_equal(drawn[:, None] == drawn[None], number[:, None] == number[None])
    other = draw(augmented(first_rows, mark, group=group), jax.random.key(1))
    assert not np.isin(np.concatenate(marks(other)), drawn).any()


def test_one_transformation_for_a_class_is_the_same_for_its_examples():
    """Equal examples of a class stay equal, and differ from those of other classes."""
    y = np.repeat(np.arange(4), 5)
    source = mj.data.dataset(np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)[y], y)
    turned = draw(
        augmented(EPISODES, affine(degrees=45), group=lambda batch: batch.y), source=source
    )
    plain = draw(EPISODES, jax.random.split(KEY)[0], source)
    x = np.asarray(turned.support.x).reshape(3, 2, -1)
    np.testing.assert_allclose(x[:, 0], x[:, 1], atol=1e-6)
    np.testing.assert_allclose(
        x[:, 0], np.asarray(turned.query.x).reshape(3, 3, -1)[:, 2], atol=1e-6
    )
    assert (np.abs(x - np.asarray(plain.support.x).reshape(3, 2, -1)).max(axis=(1, 2)) > 0.05).all()


def test_either_set_can_be_left_alone():
    plain = first_rows(images(), KEY)
    query_only = draw(augmented(first_rows, mark, support=False))
    support_only = draw(augmented(first_rows, mark, query=False))
    np.testing.assert_array_equal(query_only.support.x, plain.support.x)
    np.testing.assert_array_equal(support_only.query.x, plain.query.x)
    assert len(np.unique(marks(query_only)[1])) == 9 and len(np.unique(marks(support_only)[0])) == 6


def test_values_are_those_of_a_loop_and_many_tasks_those_of_one():
    sample = augmented(EPISODES, flip())
    tasks, source = draw(mj.data.meta_batch(sample, 4)), images()
    one, without = jax.jit(sample), jax.jit(EPISODES)
    for index, key in enumerate(jax.random.split(KEY, 4)):
        task, plain = one(source, key), without(source, jax.random.split(key)[0])
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], tasks), task, 0)
        flipped = 0
        for new, old in zip(np.asarray(task.query.x), np.asarray(plain.query.x), strict=True):
            assert (new == old).all() or (new == old[:, ::-1]).all()
            flipped += (new != old).any()
        assert 0 < flipped < 9
    np.testing.assert_array_equal(tasks.support.info["number"].shape, (4, 3))


def test_images_may_stay_bytes():
    stored = dataclasses.replace(images(), scale=None)
    task = draw(augmented(EPISODES, crop(1)), source=stored)
    plain = draw(EPISODES, jax.random.split(KEY)[0], stored)
    assert task.query.x.dtype == jnp.uint8 and (task.query.x != plain.query.x).any()
    with pytest.raises(ValueError, match="got uint8; declare scale=255 in dataset"):
        draw(augmented(EPISODES, affine()), source=stored)


@functools.cache
def several():
    """Images, and a number that every other row lacks."""
    rng = np.random.default_rng(1)
    x = mj.data.as_modalities(
        {
            "image": rng.random((30, 6, 6, 1)).astype(np.float32),
            "number": rng.random((30, 1, 1, 1)).astype(np.float32),
        },
        {"number": np.arange(30) % 4 > 1},
    )
    return mj.data.dataset(x, np.arange(30) % 6)


def test_modalities_are_augmented_by_name_where_they_are_present():
    plain = first_rows(several(), KEY)
    both = draw(augmented(first_rows, {"image": mark, "number": mark}), source=several())
    one = draw(augmented(first_rows, {"number": mark}), source=several())
    here = np.asarray(plain.query.x.present["number"])
    assert 0 < here.sum() < 9
    np.testing.assert_array_equal(one.query.x.value["image"], plain.query.x.value["image"])
    np.testing.assert_array_equal(one.query.x.value["number"], both.query.x.value["number"])
    number, image = (
        np.asarray(both.query.x.value[name])[:, 0, 0, 0] for name in ("number", "image")
    )
    assert (number[~here] == 0).all() and len(np.unique(number[here])) == here.sum()
    assert len(np.unique(image)) == 9 and not np.isin(number, image).any()
    assert_close(both.query.x.present, plain.query.x.present, 0)
    flat = lambda x, key: jnp.full_like(x, jnp.nan)
    new = draw(augmented(first_rows, {"number": flat}), source=several()).query.x.value["number"]
    np.testing.assert_array_equal(np.isnan(new)[:, 0, 0, 0], here)


def test_errors_of_augmented():
    with pytest.raises(
        ValueError,
        match=r"\['imagee'\] are not among the modalities, which are \['image', 'number'\]",
    ):
        draw(augmented(first_rows, {"imagee": mark}), source=several())
    with pytest.raises(ValueError, match=r"Modalities need \{name: augmentation\}"):
        draw(augmented(first_rows, mark), source=several())
    with pytest.raises(ValueError, match=r"other inputs one augmentation.*uint8\[6, 6, 6, 1\]"):
        draw(augmented(first_rows, {"image": mark}))
    with pytest.raises(ValueError, match=r"one integer or int\[6\], .*got int32\[5\]"):
        draw(augmented(first_rows, mark, group=lambda batch: batch.y[:5]))
    with pytest.raises(ValueError, match=r"got uint8\[6, 6, 6, 1\]"):
        draw(augmented(first_rows, mark, group=lambda batch: batch.x))
    with pytest.raises(ValueError, match=r"got float64\[\]"):
        draw(augmented(first_rows, mark, group=lambda batch: 0.5))
    with pytest.raises(ValueError, match=r"vmap over other axes"):
        draw(augmented(mj.data.meta_batch(first_rows, 2), flip()))


def fixed(batch):
    """A sampler of the same task over and over."""
    return lambda dataset, key: mj.Task(batch, batch)


def mixed(batch, number, alpha=0.5):
    """λ and j of each row of that many draws, read off rows that are unit vectors."""
    new = jax.jit(mj.data.meta_batch(mixup(lambda dataset, key: batch, alpha), number))((), KEY)
    return np.asarray(new.x, float), new


def unit_rows(rows, weight=None):
    return mj.Batch(jnp.eye(rows, dtype=jnp.float32), jnp.arange(rows, dtype=jnp.int32), weight)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_a_mean_of_two_rows_with_a_share_of_the_beta_distribution(alpha):
    x, new = mixed(unit_rows(5), 2000, alpha)
    np.testing.assert_allclose(x.sum(axis=2), 1, atol=1e-6)
    own = x[:, np.arange(5), np.arange(5)]
    rest = np.where(np.eye(5, dtype=bool)[None], 0, x)
    assert ((rest > 0).sum(axis=2) <= 1).all()  # of one other row
    other = np.where((rest > 0).any(axis=2), rest.argmax(axis=2), -1)
    counts = np.stack([(other == row).sum(axis=0) for row in range(5)])[~np.eye(5, dtype=bool)]
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi_square < 43  # 99.9 % with 19 degrees of freedom
    expected = scipy.stats.beta(alpha + 1, alpha).cdf([0.3, 0.6, 0.9])
    np.testing.assert_allclose(
        [(own < level).mean() for level in (0.3, 0.6, 0.9)], 0.8 * expected, atol=0.02
    )  # one in five is itself
    np.testing.assert_array_equal(new.y, np.broadcast_to(np.arange(5), (2000, 5)))
    assert new.x.dtype == jnp.float32


def test_mixup_has_the_expected_loss_of_mixed_labels():
    """By quadrature over λ ~ Beta(α, α) and a loop over pairs, rows weighed."""
    alpha, rng = 0.4, np.random.default_rng(0)
    x, weight = 2 * np.eye(4, 3) + 0.3 * rng.normal(size=(4, 3)), np.array([1.0, 2.0, 1.0, 0.0])
    kernel = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
    log_p = lambda x: x @ kernel - np.log(np.exp(x @ kernel).sum(axis=-1, keepdims=True))
    y = np.array([0, 1, 2, 1])
    nodes, masses = scipy.special.roots_jacobi(40, alpha - 1, alpha - 1)
    share, masses = (nodes + 1) / 2, masses / masses.sum()
    soft = own = 0.0
    for i in range(4):
        for j in range(4):
            likely = log_p(share[:, None] * x[i] + (1 - share[:, None]) * x[j])
            pair = weight[i] * weight[j] / weight.sum() ** 2
            soft -= pair * masses @ (share * likely[:, y[i]] + (1 - share) * likely[:, y[j]])
            own -= pair * masses @ likely[:, y[i]]
    batch = mj.Batch(jnp.asarray(x), jnp.asarray(y, jnp.int32), jnp.asarray(weight))
    new = mixed(batch, 20_000, alpha)[1]
    apply, _ = mj.nets.from_function(lambda params, x: x @ jnp.asarray(kernel))
    loss = mj.losses.cross_entropy(apply)
    values = np.asarray(
        jax.jit(jax.vmap(lambda batch: loss(mj.Params((), ()), batch, KEY)[0]))(new)
    )
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - soft) < 3 * error
    assert abs(own - soft) > 10 * error  # which λ ~ Beta(α, α) under the row's own label would give


def test_mixup_does_not_mix_padding_in_nor_the_support_set_unless_asked():
    batch = unit_rows(5, jnp.array([1.0, 0.0, 3.0, 1.0, 0.0]))
    tasks = draw(mj.data.meta_batch(mixup(fixed(batch), 1.0, support=True, query=False), 500))
    np.testing.assert_array_equal(tasks.query.x, np.broadcast_to(batch.x, (500, 5, 5)))
    mix = np.where(np.eye(5, dtype=bool)[None], 0, tasks.support.x)
    assert (mix[..., [1, 4]] == 0).all()
    assert (mix[..., 2] > 0).sum() > 2 * (mix[..., 0] > 0).sum() > 0
    task = draw(mixup(fixed(batch), 1.0), jax.random.split(KEY, 500)[0])
    assert_close(task.support, batch, 0)
    assert (task.query.x != batch.x).any()
    assert (task.query.x != tasks.support.x[0]).any(), "each set has draws of its own"


def test_mixup_keeps_absent_modalities():
    here = jnp.array([True, False, True, True, False])
    value = {
        "a": jnp.eye(5, dtype=jnp.float32),
        "b": jnp.where(here[:, None], 1 + jnp.eye(5), jnp.nan),
    }
    x = mj.data.as_modalities(value, {"b": here})
    new = draw(mixup(fixed(mj.Batch(x, jnp.arange(5))), 1.0)).query.x
    assert_close(new.present, x.present)
    np.testing.assert_array_equal(np.isnan(new.value["b"]).any(axis=1), ~np.asarray(here))
    share, other = (
        np.diag(new.value["a"]),
        np.where(np.eye(5, dtype=bool), 0, new.value["a"]).argmax(axis=1),
    )
    assert (share < 1).any()
    for row in (0, 2, 3):
        both = bool(here[other[row]]) and share[row] < 1
        part = share[row] if both else 1.0
        expected = part * value["b"][row] + (1 - part) * (value["b"][other[row]] if both else 0)
        np.testing.assert_allclose(new.value["b"][row], expected, rtol=1e-6)


def test_errors_of_mixup():
    for alpha in (0, -1):
        with pytest.raises(ValueError, match=f"alpha={alpha} must be a number above 0"):
            mixup(EPISODES, alpha)
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="alpha must be a finite real number, got"):
            mixup(EPISODES, alpha)
    with pytest.raises(ValueError, match=r"needs inputs of floats, got int32\[3, 2\]"):
        mixup(fixed(mj.Batch(jnp.ones((3, 2), jnp.int32), jnp.arange(3))), 1.0)((), KEY)


def test_augmented_tasks_are_learned_from():
    """All three around one sampler, and a gradient through an adaptation to what it draws."""
    sample = mixup(augmented(permuted_labels(EPISODES, 3), crop(1)), 0.5)
    start = mj.Params({"head": {}}, jnp.ones((1, 36), jnp.float32))
    flat = lambda params, x: x.reshape(len(x), -1) * params.slow
    encode, params = mj.nets.from_function(flat, start)
    loss = mj.losses.cross_entropy(mj.linear_head(encode))
    task_loss = mj.query_loss(mj.prototypes(encode, 3), loss)

    def gradient(dataset, key):
        return jax.grad(task_loss, has_aux=True)(params, sample(dataset, key), key)[0].slow

    slope = draw(gradient)
    assert np.isfinite(slope).all() and (slope != 0).any()
