"""Annotations are predicted and never read: what an absent one holds changes nothing, and every head learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.modalities.annotations import annotated, remove_modalities

KEY, WIDTH, ROWS = jax.random.key(0), 4, 6
RNG = np.random.default_rng(0)
KINDS = RNG.integers(0, 3, ROWS)
PARAMS = mj.Params(
    fast={
        "head": {"kernel": jnp.asarray(RNG.normal(size=(WIDTH, 2))), "bias": jnp.zeros(2)},
        "kind": {"kernel": jnp.asarray(RNG.normal(size=(WIDTH, 3))), "bias": jnp.zeros(3)},
        "size": {"kernel": jnp.asarray(RNG.normal(size=(WIDTH, 1))), "bias": jnp.zeros(1)},
    },
    slow=jnp.asarray(RNG.normal(size=(3, WIDTH))),
)
HERE = {"kind": np.array([1, 0, 1, 1, 0, 1], bool), "size": np.array([0, 1, 1, 0, 1, 1], bool)}


def embed(params, x, key=None, *, reference=None):
    assert list(x.value) == list(x.present) == ["image"], "an annotation was read"
    return jnp.tanh(x.value["image"] @ params.slow)


HEADS = {name: mj.linear_head(embed, head=name) for name in ("kind", "size")}
PLAIN = mj.losses.cross_entropy(mj.linear_head(embed))
SHARE = {"kind": 0.5, "size": 2.0}
LOSS = annotated(PLAIN, HEADS, weight=SHARE)


def make_batch(seed=0, weight=None):
    rng = np.random.default_rng(seed)
    value = {
        "image": jnp.asarray(rng.normal(size=(ROWS, 3))),
        "kind": jnp.asarray(KINDS, jnp.int32),
        "size": jnp.asarray(rng.normal(size=ROWS)),
    }
    x = mj.data.as_modalities(value, {name: jnp.asarray(here) for name, here in HERE.items()})
    return mj.Batch(x, jnp.asarray(rng.integers(0, 2, ROWS), jnp.int32), weight)


def put(batch, rows, **junk):
    value = {
        n: leaf.at[rows].set(jnp.asarray(junk[n], leaf.dtype)) if n in junk else leaf
        for n, leaf in batch.x.value.items()
    }
    return batch._replace(x=batch.x._replace(value=value))


run = jax.jit(jax.value_and_grad(LOSS, has_aux=True))


def test_the_sum_is_that_of_its_terms():
    """By hand, over the rows in which the annotation is present."""
    batch = make_batch(weight=jnp.array([1.0, 1.0, 0.5, 2.0, 1.0, 0.0]))
    value, metrics = LOSS(PARAMS, batch, KEY)
    x = remove_modalities(batch.x, HEADS)
    log_p = np.asarray(jax.nn.log_softmax(HEADS["kind"](PARAMS, x)))
    counts = np.array([1, 0, 0.5, 2, 0, 0])
    kind = -(counts * log_p[np.arange(ROWS), KINDS]).sum() / counts.sum()
    right = (counts * (log_p.argmax(axis=1) == KINDS)).sum() / counts.sum()
    counts = np.array([0, 1, 0.5, 0, 1, 0])
    squares = (np.asarray(HEADS["size"](PARAMS, x))[:, 0] - np.asarray(batch.x.value["size"])) ** 2
    size = (counts * squares).sum() / counts.sum()
    plain, own = PLAIN(PARAMS, batch._replace(x=x), KEY)
    np.testing.assert_allclose(value, plain + 0.5 * kind + 2 * size, rtol=1e-9)
    expected = {**own, "kind/loss": kind, "kind/accuracy": right, "size/loss": size}
    assert metrics.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-9)


@pytest.mark.parametrize("weight", [None, jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])])
def test_what_stands_in_an_absent_annotation_changes_nothing(weight):
    batch = make_batch(weight=weight)
    expected = run(PARAMS, batch, KEY)
    silent = np.zeros(ROWS, bool) if weight is None else np.asarray(weight) == 0
    for junk in ({"kind": 99, "size": np.nan}, {"kind": -7, "size": np.inf}):
        other = batch
        for name, value in junk.items():
            other = put(other, np.flatnonzero(~HERE[name] | silent), **{name: value})
        assert_close(run(PARAMS, other, KEY), expected, 0)
    unlike = put(batch, np.array([3]), kind=(KINDS[3] + 1) % 3)
    assert run(PARAMS, unlike, KEY)[0][0] != expected[0][0], "what is present does count"


def test_padding_is_inert():
    batch = make_batch(weight=jnp.ones(ROWS))
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.ones_like(leaf[:2])]), batch)
    padded = padded._replace(weight=padded.weight.at[ROWS:].set(0))
    assert_close(run(PARAMS, padded, KEY), run(PARAMS, batch, KEY), 1e-12)


def test_with_weight_0_or_nothing_present_it_is_the_plain_loss():
    batch = make_batch()
    plain = jax.value_and_grad(PLAIN, has_aux=True)(
        PARAMS, batch._replace(x=remove_modalities(batch.x, HEADS)), KEY
    )
    nowhere = batch._replace(
        x=batch.x._replace(present={**batch.x.present, **{n: jnp.zeros(ROWS, bool) for n in HEADS}})
    )
    zero = jax.value_and_grad(annotated(PLAIN, HEADS, weight=0.0), has_aux=True)
    for (value, metrics), slope in (run(PARAMS, nowhere, KEY), zero(PARAMS, batch, KEY)):
        assert_close((value, slope), (plain[0][0], plain[1]), 1e-12)
        assert_close(metrics["accuracy"], plain[0][1]["accuracy"], 0)


def test_every_head_receives_gradient_and_so_do_the_shared_features():
    _, slope = run(PARAMS, make_batch(), KEY)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(slope))
    only = jax.grad(lambda params: LOSS(params, make_batch(), KEY)[1]["size/loss"])(PARAMS)
    assert bool((only.slow != 0).any()) and not bool((only.fast["kind"]["kernel"] != 0).any())


def test_it_works_in_the_inner_loop_and_in_the_outer_loss():
    """Support annotations move the heads and what they share; the query is judged without a single one."""
    support, query = make_batch(1), make_batch(2)
    query = query._replace(
        x=query.x._replace(present={**query.x.present, **{n: jnp.zeros(ROWS, bool) for n in HEADS}})
    )
    params = mj.Params({**PARAMS.fast, "body": PARAMS.slow}, ())
    read = lambda params, x, key=None, *, reference=None: embed(
        mj.Params((), params.fast["body"]), x
    )
    heads = {name: mj.linear_head(read, head=name) for name in HEADS}
    plain = mj.losses.cross_entropy(mj.linear_head(read))
    both = annotated(plain, heads, weight=SHARE)
    task_loss = mj.query_loss(mj.inner_loop(both, optax.sgd(0.1), steps=2), both)
    slope = jax.jit(jax.grad(lambda params: task_loss(params, mj.Task(support, query), KEY)[0]))(
        params
    )
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(slope))
    before, after = (
        both(some, support, KEY)[0]
        for some in (
            params,
            mj.inner_loop(both, optax.sgd(0.1), steps=2).adapt(params, support, KEY),
        )
    )
    assert after < before


def test_class_means_do_not_see_an_annotation():
    blind = lambda params, x, key=None, *, reference=None: embed(
        params, remove_modalities(x, HEADS)
    )
    task_loss = mj.query_loss(mj.prototypes(blind, 2), LOSS)
    task = mj.Task(make_batch(1), make_batch(2))
    value, metrics = task_loss(PARAMS, task, KEY)
    changed = task._replace(support=put(task.support, slice(None), kind=0, size=0.0))
    assert_close(task_loss(PARAMS, changed, KEY), (value, metrics), 0)


def test_errors_say_what_to_do():
    batch = make_batch()
    with pytest.raises(
        ValueError,
        match=r"\['colour'\] are not among the modalities, which are \['image', 'kind', 'size'\]",
    ):
        annotated(PLAIN, {"colour": HEADS["kind"]})(PARAMS, batch, KEY)
    with pytest.raises(
        ValueError, match=r"a head and a weight, got \['kind', 'size'\] and \['kind'\]"
    ):
        annotated(PLAIN, HEADS, weight={"kind": 1.0})
    with pytest.raises(ValueError, match="needs a head"):
        annotated(PLAIN, {})
    with pytest.raises(ValueError, match=r"stand in a Modalities, got .*; see data.modalities"):
        LOSS(PARAMS, batch._replace(x=batch.x.value["image"]), KEY)
    size, kind = (batch._replace(x=remove_modalities(batch.x, [name])) for name in ("kind", "size"))
    with pytest.raises(
        ValueError, match=r"head of 'size' must give \[6\] for float64\[6\], got \[6, 3\]"
    ):
        annotated(PLAIN, {"size": HEADS["kind"]})(PARAMS, size, KEY)
    one = lambda *arguments, **options: HEADS["kind"](*arguments, **options)[:, 0]
    with pytest.raises(
        ValueError, match=r"head of 'kind' must give \[6, classes\] for int32\[6\], got \[6\]"
    ):
        annotated(PLAIN, {"kind": one})(PARAMS, kind, KEY)
