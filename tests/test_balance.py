import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.modalities.balance import Losses, blending_weights, gradient_blending, ogm_ge

PARAMS = {
    "audio": {"kernel": jnp.arange(6.0).reshape(2, 3)},
    "image": {"kernel": jnp.ones((2, 2)), "bias": jnp.arange(2.0)},
    "text": jnp.array([1.0, -1.0, 2.0]),
    "head": jnp.ones(3),
}


def modality_of(path):
    name = path.split("/")[0]
    return None if name == "head" else name


def test_modulation_by_hand():
    """Two modalities as published, and three: the ratio is to the mean of the others."""
    two = {name: PARAMS[name] for name in ("audio", "image", "head")}
    optimizer = ogm_ge(modality_of, alpha=0.5)
    state = optimizer.init(two)
    updates, state = jax.jit(optimizer.update)(two, state, scores={"image": 6.0, "audio": 4.0})
    assert_close(updates["image"]["bias"], (1 - np.tanh(0.5 * 1.5)) * two["image"]["bias"], 1e-6)
    assert_close({n: updates[n] for n in ("audio", "head")}, {n: two[n] for n in ("audio", "head")})
    scores = {"audio": 3.0, "image": 2.0, "text": 0.4}
    updates, state = optimizer.update(PARAMS, optimizer.init(PARAMS), scores=scores)
    factors = {
        "audio": 1 - np.tanh(0.5 * 3 / 1.2),
        "image": 1 - np.tanh(0.5 * 2 / 1.7),
        "text": 1.0,
        "head": 1.0,
    }
    assert_close(
        updates,
        {n: jax.tree.map(lambda leaf, n=n: factors[n] * leaf, PARAMS[n]) for n in PARAMS},
        1e-6,
    )
    again, state = optimizer.update(PARAMS, state)  # the scores are remembered
    assert_close(again, updates)
    unknown, _ = optimizer.update(PARAMS, state, scores=scores | {"audio": jnp.nan})
    assert_close(unknown, PARAMS)
    untold, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    assert_close(untold, PARAMS)


def test_noise_has_the_deviation_of_the_gradient():
    gradient = {
        "audio": 5 + 3 * jax.random.normal(jax.random.key(0), (100, 100)),
        "image": jnp.full((50, 50), 2.0),
    }
    optimizer = ogm_ge(modality_of, jax.random.key(1), alpha=0.1)
    state = optimizer.init(gradient)
    scores = {"audio": 2.0, "image": 1.0}
    updates, next_state = optimizer.update(gradient, state, scores=scores)
    noise = updates["audio"] - (1 - np.tanh(0.2)) * gradient["audio"]
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 3], atol=0.1)
    assert_close(updates["image"], gradient["image"])  # a constant one has no deviation
    assert_close(optimizer.update(gradient, state, scores=scores)[0], updates)
    other = optimizer.update(gradient, next_state, scores=scores)[0]
    assert (
        abs(
            np.corrcoef((other["audio"] - updates["audio"]).ravel(), noise.ravel())[0, 1] + 0.5**0.5
        )
        < 0.05
    )


def test_outer_loop_is_told_the_scores_between_steps():
    """Its metrics give the scores of one step to the next."""

    def task_loss(params, task, key):
        parts = {"audio": params.slow["audio"] * task, "image": 0.1 * params.slow["image"] * task}
        return sum(parts.values()), {"audio": 3.0 * task, "image": task}

    slow = {"audio": jnp.array(1.0), "image": jnp.array(1.0)}
    optimizer = optax.chain(ogm_ge(lambda path: path.split("/")[-1], alpha=0.5), optax.sgd(1.0))
    outer = mj.outer_loop(task_loss, optimizer)
    state = outer.init(mj.Params(fast={}, slow=slow))
    step, tasks, key = jax.jit(outer.step), jnp.ones(2), jax.random.key(0)
    state, info = step(state, tasks, key)
    assert_close(state.params.slow, {"audio": jnp.array(0.0), "image": jnp.array(0.9)})
    scores = jax.tree.map(lambda metric: metric.astype(jnp.float32), info.metrics)
    state = state._replace(optimizer=optax.tree.set(state.optimizer, scores=scores))
    state, _ = step(state, tasks, key)
    expected = {"audio": jnp.array(-(1 - np.tanh(1.5))), "image": jnp.array(0.8)}
    assert_close(state.params.slow, expected, 1e-6)


def test_blending():
    """By hand, w ∝ G / O², from the second measurement on; in a chain with another optimizer."""
    names = ["audio", "image", "joint"]
    optimizer = optax.chain(gradient_blending(names), optax.sgd(1.0))
    params = {"w": jnp.zeros(2)}
    gradients = {name: {"w": jnp.array([1.0, 10.0]) * (m + 1)} for m, name in enumerate(names)}
    before = Losses(
        {"audio": 1.0, "image": 1.0, "joint": 1.0}, {"audio": 1.5, "image": 1.2, "joint": 1.0}
    )
    after = Losses(
        {"audio": 0.5, "image": 0.6, "joint": 0.2}, {"audio": 1.1, "image": 1.3, "joint": 0.7}
    )
    update = jax.jit(optimizer.update)
    equal, state = update(gradients, optimizer.init(params), params, losses=before)
    assert_close(equal, {"w": jnp.array([-2.0, -20.0])}, 1e-6)
    # audio: G = 0.4, O = 0.6 - 0.5; image got worse; joint: G = 0.3, O = 0.5 - 0
    share = np.array([0.4 / 0.1**2, 0, 0.3 / 0.5**2])
    share /= share.sum()
    blended, state = update(gradients, state, params, losses=after)
    value = -(share * [1, 2, 3]).sum()
    assert_close(blended, {"w": jnp.array([value, 10 * value])}, 1e-5)
    assert_close(
        update(gradients, state, params)[0], blended
    )  # in force until the next measurement
    weights = blending_weights(before, after)
    np.testing.assert_allclose([weights[name] for name in names], share, rtol=1e-5)
    np.testing.assert_allclose(
        [*blending_weights(after, after).values()], 1 / 3, rtol=1e-6
    )  # nothing learned


def test_errors_name_the_modalities():
    with pytest.raises(ValueError, match="alpha=0"):
        ogm_ge(modality_of, alpha=0)
    optimizer = ogm_ge(modality_of, alpha=0.1)
    with pytest.raises(ValueError, match=r"\['text'\].*head.*text"):
        optimizer.init({"head": jnp.ones(1), "text": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"\['audio', 'image', 'text'\], got \['audio'\]"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), scores={"audio": 1.0})
    blending = gradient_blending(["audio", "image"])
    with pytest.raises(ValueError, match=r"\['audio', 'image'\], got \['audio'\]"):
        blending.update({"audio": PARAMS}, blending.init(PARAMS))
