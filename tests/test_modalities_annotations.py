"""Annotations are predicted and never read; absent ones have no influence; heads learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.modalities import annotated, remove_modalities

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


HEADS = {name: mj.linear_head(embed, entry=name) for name in ("kind", "size")}
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
    """By hand, over the rows in which the annotation is present; and classes may be bool."""
    batch = make_batch(weight=jnp.array([1.0, 1.0, 0.5, 2.0, 1.0, 0.0]))
    (value, metrics), _ = run(PARAMS, batch, KEY)
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
def test_absent_annotations_have_no_influence(weight):
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


def test_padding_has_no_influence():
    batch = make_batch(weight=jnp.ones(ROWS))
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.ones_like(leaf[:2])]), batch)
    padded = padded._replace(weight=padded.weight.at[ROWS:].set(0))
    assert_close(run(PARAMS, padded, KEY), run(PARAMS, batch, KEY), 1e-12)


def test_with_weight_0_or_nothing_present_it_is_the_plain_loss():
    batch = make_batch()
    plain = jax.jit(jax.value_and_grad(PLAIN, has_aux=True))(
        PARAMS, batch._replace(x=remove_modalities(batch.x, HEADS)), KEY
    )
    nowhere = batch._replace(
        x=batch.x._replace(present={**batch.x.present, **{n: jnp.zeros(ROWS, bool) for n in HEADS}})
    )
    zero = jax.jit(jax.value_and_grad(annotated(PLAIN, HEADS, weight=0.0), has_aux=True))
    for (value, metrics), slope in (run(PARAMS, nowhere, KEY), zero(PARAMS, batch, KEY)):
        assert_close((value, slope), (plain[0][0], plain[1]), 1e-12)
        assert_close(metrics["accuracy"], plain[0][1]["accuracy"], 0)


def test_every_head_receives_gradient_and_so_do_the_shared_features():
    _, slope = run(PARAMS, make_batch(), KEY)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(slope))
    size = jax.jit(jax.grad(lambda params, batch: LOSS(params, batch, KEY)[1]["size/loss"]))
    only = size(PARAMS, make_batch())
    assert bool((only.slow != 0).any()) and not bool((only.fast["kind"]["kernel"] != 0).any())


def test_it_works_in_the_inner_loop_and_in_the_outer_loss():
    """Annotations of the support set move the heads and the shared body; the query set has none."""
    support, query = make_batch(1), make_batch(2)
    nowhere = {**query.x.present, **{name: jnp.zeros(ROWS, bool) for name in HEADS}}
    query = query._replace(x=query.x._replace(present=nowhere))
    params = mj.Params({**PARAMS.fast, "body": PARAMS.slow}, ())

    def read(params, x, key=None, *, reference=None):
        return embed(mj.Params((), params.fast["body"]), x)

    heads = {name: mj.linear_head(read, entry=name) for name in HEADS}
    both = annotated(mj.losses.cross_entropy(mj.linear_head(read)), heads, weight=SHARE)
    descend = mj.inner_loop(both, optax.sgd(0.1), steps=2)
    task_loss = mj.query_loss(descend, both)

    @jax.jit
    def measure(params, task):
        slope = jax.grad(lambda params: task_loss(params, task, KEY)[0])(params)
        adapted = descend.adapt(params, task.support, KEY)
        return slope, [both(some, task.support, KEY)[0] for some in (params, adapted)]

    slope, (before, after) = measure(params, mj.Task(support, query))
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(slope))
    assert after < before


def test_classes_may_be_bool_and_numbers_may_be_vectors():
    rng, batch = np.random.default_rng(5), make_batch()
    flag, place = rng.random(ROWS) < 0.5, rng.normal(size=(ROWS, 2))
    images = batch.x.value["image"]
    value = {"image": images, "flag": jnp.asarray(flag), "place": jnp.asarray(place)}
    heads = {"flag": lambda *_, **__: logits, "place": lambda *_, **__: places}
    logits, places = jnp.asarray(rng.normal(size=(ROWS, 2))), jnp.zeros((ROWS, 2))
    loss = annotated(lambda *_: (jnp.zeros(()), {}), heads)
    _, metrics = loss(PARAMS, batch._replace(x=mj.data.as_modalities(value)), KEY)
    expected = (np.asarray(logits).argmax(axis=1) == flag).mean()
    np.testing.assert_allclose(metrics["flag/accuracy"], expected)
    np.testing.assert_allclose(metrics["place/loss"], (place**2).mean(), rtol=1e-9)


def test_class_means_do_not_see_an_annotation():
    def blind(params, x, key=None, *, reference=None):
        return embed(params, remove_modalities(x, HEADS))

    task_loss = jax.jit(mj.query_loss(mj.prototypes(blind, 2), LOSS))
    task = mj.Task(make_batch(1), make_batch(2))
    ours = task_loss(PARAMS, task, KEY)
    changed = task._replace(support=put(task.support, slice(None), kind=0, size=0.0))
    assert_close(task_loss(PARAMS, changed, KEY), ours, 0)


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
    with pytest.raises(ValueError, match=r"must be a Modalities, got .*; data\.as_modalities"):
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
