"""Networks that write weights of others, against their formulas."""

import described_problems
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from problems import FEATURES, WAYS, assert_close, cast, first, make_module, make_tasks
from test_catalogue import KEY, numbers, padded
from test_catalogue_modalities import body, describer

import metajax as mj
from metajax import algorithms, inner
from metajax.nets import MLP, identity_encoder


def test_metanet_is_its_formula():
    task = first(make_tasks())
    learner = algorithms.meta_net(make_module(), WAYS, MLP(2, (6,), 1, rngs=nnx.Rngs(1)))
    params = cast(learner.params, jnp.float64)
    layer, head = numbers(params.slow["layers"][0]), numbers(params.fast["head"])
    hidden = lambda x: np.maximum(np.asarray(x) @ layer["kernel"] + layer["bias"], 0)
    support, query = hidden(task.support.x), hidden(task.query.x)
    logits = support @ head["kernel"] + head["bias"]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = p - np.eye(WAYS)[task.support.y]

    def mapped(slope):
        large = np.abs(slope) >= np.exp(-10)
        size = np.where(large, np.log(np.where(large, np.abs(slope), 1)) / 10, -1)
        sign = np.where(large, np.sign(slope), np.exp(10) * slope)
        m = numbers(params.rule)
        inner = np.stack([size, sign], axis=-1) @ m["layers"][0]["kernel"] + m["layers"][0]["bias"]
        return (np.maximum(inner, 0) @ m["head"]["kernel"] + m["head"]["bias"])[..., 0]

    kernels = mapped(support[:, :, None] * error[:, None])
    length = lambda rows: np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = (query / length(query)) @ (support / length(support)).T
    share = np.exp(cosine) / np.exp(cosine).sum(axis=1, keepdims=True)
    expected = query @ head["kernel"] + head["bias"] + share @ mapped(error)
    expected += np.einsum("qd,qn,ndw->qw", query, share, kernels)
    for batch in (task.support, padded(task.support)):
        adapted = learner.adaptation.adapt(params, batch, KEY)
        np.testing.assert_allclose(learner.apply(adapted, task.query.x), expected, rtol=1e-8)
    nothing = task.support._replace(weight=jnp.zeros(6))
    adapted = learner.adaptation.adapt(params, nothing, KEY)
    plain = query @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(learner.apply(adapted, task.query.x), plain, rtol=1e-8)
    without_bias = make_module(WAYS)
    without_bias.head = nnx.Linear(
        without_bias.head.in_features, WAYS, use_bias=False, rngs=nnx.Rngs(0)
    )
    learner = algorithms.meta_net(without_bias, WAYS, MLP(2, (6,), 1, rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match="The head must have a bias"):
        learner.adaptation.adapt(learner.params, task.support, KEY)
    wide = algorithms.meta_net(make_module(5), WAYS, MLP(2, (6,), 1, rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match=r"head must be \[8, 3\].*got \[8, 5\]"):
        wide.adaptation.adapt(wide.params, task.support, KEY)


def snail():
    reader = mj.nets.TransformerProcess(8, WAYS, width=16, layers=1, rngs=nnx.Rngs(1))
    return algorithms.snail(make_module(), WAYS, reader)


def leo(**options):
    return algorithms.leo(make_module(), WAYS, 8, latent=4, initial_rate=0.5, **options)


def test_leo_is_its_formulas():
    task = first(make_tasks())
    still = leo(inner_steps=0)
    params = cast(still.params, jnp.float64)
    slow = numbers(params.slow)
    layer = slow["layers"][0]
    hidden = lambda x: np.maximum(np.asarray(x) @ layer["kernel"] + layer["bias"], 0)
    code = hidden(task.support.x) @ slow["encode"]["kernel"]
    pairs = np.stack([[np.concatenate([one, other]) for other in code] for one in code])
    for one in (slow["relate"]["layers"][0], slow["relate"]["layers"][1]):
        pairs = np.maximum(pairs @ one["kernel"] + one["bias"], 0)
    read = pairs @ slow["relate"]["head"]["kernel"] + slow["relate"]["head"]["bias"]
    expected = np.stack([read[task.support.y == k].mean(axis=(0, 1)) for k in range(WAYS)])
    for batch in (task.support, padded(task.support)):
        found = still.adaptation.adapt(params, batch, KEY).fast["latent"]
        np.testing.assert_allclose(found["mean"], expected[:, :4], rtol=1e-8)
        np.testing.assert_allclose(found["log_deviation"], expected[:, 4:], rtol=1e-8)
    drawn = (found["code"] - found["mean"]) / jnp.exp(found["log_deviation"])
    assert 0.3 < jnp.std(drawn) < 2
    adapted = still.adaptation.adapt(params, task.support, KEY)
    kernel = (found["code"] @ slow["decode"]["kernel"])[:, :8]
    logits = still.apply(adapted, task.query.x)
    np.testing.assert_allclose(logits, hidden(task.query.x) @ kernel.T, rtol=1e-8)
    assert (still.apply(adapted, task.query.x, KEY) != logits).any()
    # The two penalties, from their strengths.
    value = lambda **options: leo(**options).task_loss(params, task, KEY)[0]
    mean, log_deviation = expected[:, :4], expected[:, 4:]
    far = (np.exp(2 * log_deviation) + mean**2 - 1 - 2 * log_deviation) / 2
    plain = value(divergence=0.0, encoder_penalty=0.0)
    np.testing.assert_allclose(
        value(divergence=1.0, encoder_penalty=0.0) - plain, far.mean(), rtol=1e-6
    )
    moving = leo(inner_steps=5)
    moved = moving.adaptation.adapt(params, task.support, jax.random.split(KEY)[0]).fast["latent"]
    way = ((moved["code"] - moved["start"]) ** 2).mean()
    assert way > 0
    np.testing.assert_allclose(value(divergence=0.0, encoder_penalty=1.0) - plain, way, rtol=1e-6)


def test_the_parts_of_networks_that_write_weights():
    """Those that a recipe puts together are there to be put together in another way."""
    task = first(make_tasks())
    embed, params = algorithms.as_features(make_module(), "head")
    params = cast(params, jnp.float64)
    double = lambda params, x, key=None, *, reference=None: 2 * x
    codes = inner.latent_codes(embed, double, double, WAYS)
    params = params._replace(slow={**params.slow, "encode": {}, "relate": {}, "decode": {}})
    found = codes.adapt(params, task.support, KEY)
    assert found.fast["latent"]["code"].shape == (WAYS, 8)
    assert inner.decoded_head(embed, identity_encoder)(
        found._replace(fast={"latent": {"code": jnp.ones((WAYS, 16)), "bias": jnp.zeros(WAYS)}}),
        task.query.x,
    ).shape == (12, WAYS)
    first_number = lambda params, x, key=None, *, reference=None: x[:, :1]
    memory = inner.gradient_memory(embed, first_number, {}, WAYS)
    head = {"kernel": jnp.zeros((8, WAYS)), "bias": jnp.zeros(WAYS)}
    written = memory.adapt(params._replace(fast={"head": head}), task.support, KEY)
    logits = inner.memory_head(embed)(written, task.query.x)
    assert logits.shape == (12, WAYS) and jnp.isfinite(logits).all()


LEARNERS = {
    "leo": leo,
    "meta_net": lambda: algorithms.meta_net(make_module(), WAYS, MLP(2, (6,), 1, rngs=nnx.Rngs(1))),
    "snail": snail,
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learning_beats_the_untrained_self_and_a_guess(name):
    learner = LEARNERS[name]()
    learner = learner._replace(params=cast(learner.params, jnp.float64))
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-2))
    state, step = outer.init(learner.params), jax.jit(outer.step)
    for number in range(200):
        state, _ = step(state, make_tasks(16, seed=number), jax.random.key(number))
    unseen = make_tasks(200, seed=999)
    before, after = (
        mj.evaluate(learner.task_loss, params, unseen, KEY)["accuracy"]
        for params in (learner.params, state.params)
    )
    assert after.mean - after.interval > max(before.mean + before.interval, 1 / WAYS)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_class_without_support_and_no_support_at_all(name):
    learner, task = LEARNERS[name](), first(make_tasks())
    params = cast(learner.params, jnp.float64)
    answer = lambda support: learner.apply(
        learner.adaptation.adapt(params, support, KEY), task.query.x
    )
    two = answer(task.support._replace(weight=1.0 * (task.support.y != 1)))
    assert (two[:, 1] < -1e8).all() and (jnp.abs(two[:, ::2]) < 1e3).all()
    none = answer(task.support._replace(weight=jnp.zeros(6)))
    assert (jnp.abs(none) < 1e3).all()
    empty = jax.tree.map(lambda leaf: leaf[:0], task.support)
    if name == "snail":
        np.testing.assert_allclose(answer(empty), none, rtol=1e-8)


def test_parts_of_a_recipe_do_not_overwrite_those_of_a_net():
    """A net of one's own may have a part of the name of a further net."""
    apply = lambda params, x, key=None, *, reference=None: x * params.fast["decode"]
    net = (apply, mj.Params({"decode": jnp.ones(())}, {}))
    with pytest.raises(ValueError, match="has a part 'decode', the name of a further net"):
        algorithms.leo(net, WAYS, FEATURES)
    with pytest.raises(ValueError, match="no method read and no predict"):
        algorithms.snail(make_module(), WAYS, make_module())


def test_snail_does_not_read_what_has_no_weight_or_label():
    task = first(make_tasks())
    learner = snail()
    params = cast(learner.params, jnp.float64)
    answer = lambda support: learner.apply(
        learner.adaptation.adapt(params, support, KEY), task.query.x
    )
    expected = answer(task.support)
    np.testing.assert_allclose(answer(padded(task.support)), expected, rtol=1e-10)
    x = jnp.concatenate([task.support.x, jnp.ones((1, FEATURES))])
    np.testing.assert_allclose(
        answer(mj.Batch(x, jnp.append(task.support.y, -1))), expected, rtol=1e-10
    )
    order = jnp.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(answer(mj.take(task.support, order)), expected, rtol=1e-8)


def written_factors():
    writer = lambda size: MLP(8, (6,), size, rngs=nnx.Rngs(7))
    return algorithms.described_low_rank(body(), describer(), 3, writer, rank=2)


def test_written_low_rank_factors_are_their_formula():
    learner = written_factors()
    params = cast(learner.params, jnp.float64)
    task = first(described_problems.make_tasks())
    rule = numbers(params.rule["factors"])
    text = rule["describe"]["text"]
    mean = (np.asarray(task.support.info["text"]) @ text["kernel"] + text["bias"]).mean(axis=0)
    layer, head = rule["writer"]["layers"][0], rule["writer"]["head"]
    moved = np.maximum(mean @ layer["kernel"] + layer["bias"], 0) @ head["kernel"] + head["bias"]
    flat, unravel = ravel_pytree(params.fast["low_rank"])
    factors = numbers(unravel(flat + moved)["layers"][0])
    own = numbers(params.slow["layers"][0])
    kernel = own["kernel"] + factors["down"] @ factors["up"]
    hidden = lambda x: np.maximum(np.asarray(x) @ kernel + own["bias"], 0)
    means = np.stack([hidden(task.support.x)[task.support.y == k].mean(axis=0) for k in range(3)])
    expected = 2 * hidden(task.query.x) @ means.T - (means**2).sum(axis=1)
    adapted = learner.adaptation.adapt(params, task.support, KEY)
    assert_close(adapted.fast["low_rank"], unravel(flat + moved), 1e-8)
    np.testing.assert_allclose(learner.apply(adapted, task.query.x), expected, rtol=1e-8)
    bare = task.support._replace(info=())
    with pytest.raises(ValueError, match="no info on its classes"):
        learner.adaptation.adapt(params, bare, KEY)


def test_written_low_rank_factors_are_learned():
    learner = written_factors()
    params = cast(learner.params, jnp.float64)
    slopes = jax.grad(
        lambda params: learner.task_loss(params, first(described_problems.make_tasks()), KEY)[0]
    )(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path((slopes.slow, slopes.rule)):
        assert (leaf != 0).any(), jax.tree_util.keystr(path)
