"""Alignment as a task: an inner loop on pairs, and an outer loss on what they are for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.modalities import cca, info_nce, pair_loss, recall, sigmoid_loss, triplet

WIDTH, PAIRS, WAYS, KEY = 4, 8, 3, jax.random.key(0)


def encode(params, x, key=None, *, reference=None):
    """The image as it is; the stroke through a linear map, which is fast."""
    return {"image": x.value["image"], "stroke": x.value["stroke"] @ params.fast["map"]}


def image(params, x, key=None, *, reference=None):
    return encode(params, x)["image"]


def stroke(params, x, key=None, *, reference=None):
    return encode(params, x)["stroke"]


def make_task(key):
    """Images are concepts, and strokes are concepts through a map that differs between tasks.

    Support: an image with a label of each class, and pairs without labels. Query: new pairs.
    """
    common = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0])
    map_key, class_key, *keys = jax.random.split(key, 5)
    own = common + 0.5 * jax.random.normal(map_key, (WIDTH, WIDTH))
    centre = 2 * jax.random.normal(class_key, (WAYS, WIDTH))

    def examples(y, key):
        concept = centre[y] + 0.7 * jax.random.normal(key, (len(y), WIDTH))
        return {"image": concept, "stroke": concept @ own}

    labelled, pairs = jnp.arange(WAYS), jnp.arange(PAIRS) % WAYS
    support = examples(jnp.concatenate([labelled, pairs]), keys[0])
    query = examples(pairs, keys[1])
    has_stroke = jnp.arange(WAYS + PAIRS) >= WAYS
    y = jnp.concatenate([labelled, jnp.full(PAIRS, -1)]).astype(jnp.int32)
    return mj.Task(
        mj.Batch(mj.data.as_modalities(support, {"stroke": has_stroke}), y, jnp.ones(len(y))),
        mj.Batch(mj.data.as_modalities(query), pairs.astype(jnp.int32), jnp.ones(PAIRS)),
    )


contrast = functools.partial(info_nce, temperature=0.3)
align = mj.inner_loop(pair_loss(encode, "image", "stroke", contrast), optax.sgd(0.3), steps=5)
croma = mj.query_loss(
    mj.chain(align, mj.prototypes(image, WAYS)), mj.losses.cross_entropy(mj.linear_head(stroke))
)
params = mj.Params({"map": jnp.eye(WIDTH) + 0.1}, ())
ready = params._replace(rule=((), ()))
aligned = jax.jit(lambda support: align.adapt(params, support, KEY).fast)
run_croma = jax.jit(jax.value_and_grad(croma, has_aux=True))


@functools.cache
def many():
    return jax.jit(jax.vmap(make_task))(jax.random.split(jax.random.key(1), 100))


@functools.cache
def one():
    return jax.tree.map(lambda leaf: leaf[0], many())


MEASURES = (info_nce, sigmoid_loss, triplet, cca)


@jax.jit
def losses(value, present, weight):
    """Of every measure: the value, and the gradients by the map and by the inputs."""

    def all_of_them(fast, value):
        batch = mj.Batch(mj.Modalities(value, present), (), weight=weight)
        of = lambda measure: pair_loss(encode, "image", "stroke", measure)
        return jnp.stack([of(measure)(mj.Params(fast, ()), batch, KEY)[0] for measure in MEASURES])

    return all_of_them(params.fast, value), jax.jacrev(all_of_them, (0, 1))(params.fast, value)


def test_rows_that_lack_a_modality_have_no_influence():
    rng, rows = np.random.default_rng(0), 9
    value = {name: rng.normal(size=(rows, WIDTH)) for name in ("image", "stroke")}
    present = {"image": np.arange(rows) != 5, "stroke": np.arange(rows) > 1}
    weight, whole = np.arange(rows) * 1.0, present["image"] & present["stroke"]
    spoiled = {name: np.where(present[name][:, None], x, np.nan) for name, x in value.items()}
    ours, again = losses(value, present, weight), losses(spoiled, present, weight)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, again))
    by_map, by_value = ours[1]
    assert (np.abs(by_map["map"]).max(axis=(1, 2)) > 1e-6).all()
    for gradient in by_value.values():
        assert not np.asarray(gradient)[:, ~whole].any() and np.asarray(gradient)[:3, whole].any()

    @jax.jit
    def measured(image, stroke, weight):
        return jnp.stack([measure(image, stroke, weight=weight) for measure in MEASURES])

    mapped = value["stroke"][whole] @ np.asarray(params.fast["map"])
    only = measured(value["image"][whole], mapped, weight[whole])
    np.testing.assert_allclose(ours[0], only, rtol=1e-10)


def test_croma_equals_its_parts_and_absent_values_are_ignored():
    """Prototypes are those of the labelled images: rows with the label -1 have no class."""
    task = one()
    fast = aligned(task.support)
    images = np.asarray(task.support.x.value["image"])[:WAYS]
    mapped = np.asarray(task.query.x.value["stroke"]) @ np.asarray(fast["map"])
    distance = ((mapped[:, None] - images[None]) ** 2).sum(axis=2)
    expected = (distance.argmin(axis=1) == np.asarray(task.query.y)).mean()
    ours = run_croma(ready, task, KEY)
    np.testing.assert_allclose(ours[0][1]["accuracy"], expected)

    def hidden(x, name):
        part = jnp.where(x.present[name][:, None], x.value[name], jnp.nan)
        return x._replace(value={**x.value, name: part})

    support = task.support._replace(x=hidden(task.support.x, "stroke"))
    present = {**task.query.x.present, "image": jnp.zeros(PAIRS, bool)}
    query = task.query._replace(x=hidden(task.query.x._replace(present=present), "image"))
    again = run_croma(ready, mj.Task(support, query), KEY)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, again))
    assert np.abs(ours[1].fast["map"]).min() > 1e-6


def test_names_tell_modalities_apart():
    support, turned = one().support, lambda tree: dict(reversed(tree.items()))
    again = support._replace(x=mj.Modalities(*map(turned, support.x)))
    np.testing.assert_array_equal(aligned(again)["map"], aligned(support)["map"])


def test_alignment_finds_new_pairs_and_meta_learning_finds_more():
    """Retrieval of the query's pairs: the inner loop finds more, and meta-training yet more."""
    retrieve = pair_loss(encode, "image", "stroke", functools.partial(recall, k=1))
    outer = mj.outer_loop(
        mj.query_loss(align, pair_loss(encode, "image", "stroke", contrast)), optax.adam(0.03)
    )
    still, moved = (mj.query_loss(adaptation, retrieve) for adaptation in (mj.identity(), align))

    @jax.jit
    def run(params, tasks, keys):
        """Recall without the inner loop, with it, and with it after the outer steps."""

        def step(state, key):
            return outer.step(state, jax.vmap(make_task)(jax.random.split(key, 8)), key)[0], None

        learned = jax.lax.scan(step, outer.init(params), keys)[0].params
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, learned)
        after = jax.lax.map(
            lambda params: mj.evaluate(moved, params, tasks, KEY)["loss"].mean, both
        )
        return mj.evaluate(still, params, tasks, KEY)["loss"].mean, *after

    before, adapted, learned = run(params, many(), jax.random.split(KEY, 60))
    assert adapted > before + 0.1
    assert learned > adapted + 0.1


def test_errors_name_the_modalities():
    batch = one().support
    match = r"\['strokes'\] are not among the modalities, which are \['image', 'stroke'\]"
    with pytest.raises(ValueError, match=match):
        pair_loss(encode, "image", "strokes")(params, batch, KEY)
    with pytest.raises(ValueError, match="x of the batch must be a Modalities, got"):
        pair_loss(encode, "image", "stroke")(
            params, batch._replace(x=jnp.ones((len(batch.y), 2))), KEY
        )
    with pytest.raises(ValueError, match="two modalities, got 'image' twice"):
        pair_loss(encode, "image", "image")
