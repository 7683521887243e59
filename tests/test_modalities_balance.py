"""Gradients of several modalities, balanced by their scores or by their losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_close

import metajax as mj
from metajax.modalities import Losses, blending_weights, gradient_blending, ogm_ge

PARAMS = {
    "audio": {"kernel": jnp.arange(6.0).reshape(2, 3)},
    "image": {"kernel": jnp.ones((2, 2)), "bias": jnp.arange(2.0)},
    "text": jnp.array([1.0, -1.0, 2.0]),
    "head": jnp.ones(3),
}


def modality_of(path):
    name = path.split("/")[0]
    return None if name == "head" else name


def scaled(factors):
    """PARAMS with a factor for each part."""
    return {
        name: jax.tree.map(lambda leaf, name=name: factors[name] * leaf, part)
        for name, part in PARAMS.items()
    }


def test_two_modalities_as_published():
    two = {name: PARAMS[name] for name in ("audio", "image", "head")}
    optimizer = ogm_ge(modality_of, alpha=0.5)
    scores = {"image": 6.0, "audio": 4.0}
    updates, _ = jax.jit(optimizer.update)(two, optimizer.init(two), scores=scores)
    assert_close(updates["image"]["bias"], (1 - np.tanh(0.5 * 1.5)) * two["image"]["bias"], 1e-6)
    assert_close({n: updates[n] for n in ("audio", "head")}, {n: two[n] for n in ("audio", "head")})


def test_the_ratio_is_to_the_mean_of_the_others_and_scores_are_remembered():
    optimizer = ogm_ge(modality_of, alpha=0.5)
    start, update = optimizer.init(PARAMS), jax.jit(optimizer.update)
    assert_close(update(PARAMS, start)[0], PARAMS)  # no scores yet: nothing changes
    scores = {"audio": 3.0, "image": 2.0, "text": 0.4}
    updates, state = update(PARAMS, start, scores=scores)
    audio, image = 1 - np.tanh(0.5 * 3 / 1.2), 1 - np.tanh(0.5 * 2 / 1.7)
    assert_close(updates, scaled({"audio": audio, "image": image, "text": 1.0, "head": 1.0}), 1e-6)
    assert state.step == 1
    assert_close(update(PARAMS, state)[0], updates)
    unknown, _ = update(PARAMS, state, scores=scores | {"audio": jnp.nan})
    assert_close(unknown, PARAMS)


def test_noise_has_the_deviation_of_the_gradient():
    rng = np.random.default_rng(0)
    audio, image = 5 + 3 * rng.normal(size=(100, 100)), np.full((50, 50), 2.0)
    gradient = {"audio": jnp.asarray(audio), "image": jnp.asarray(image)}
    optimizer = ogm_ge(modality_of, jax.random.key(1), alpha=0.1)
    start, update = optimizer.init(gradient), jax.jit(optimizer.update)
    scores = {"audio": 2.0, "image": 1.0}
    updates, state = update(gradient, start, scores=scores)
    scaled_audio = (1 - np.tanh(0.2)) * audio
    noise = np.asarray(updates["audio"]) - scaled_audio
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 3], atol=0.1)
    assert_close(updates["image"], gradient["image"])  # a constant has no deviation
    assert_close(update(gradient, start, scores=scores)[0], updates)
    other, _ = update(gradient, state, scores=scores)
    next_noise = np.asarray(other["audio"]) - scaled_audio
    assert abs(np.corrcoef(next_noise.ravel(), noise.ravel())[0, 1]) < 0.05


def test_the_outer_loop_gets_the_scores_between_steps():
    """The metrics of one step are the scores of the next."""

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


NAMED = ["audio", "image", "joint"]
BEFORE = Losses(dict.fromkeys(NAMED, 1.0), {"audio": 1.5, "image": 1.2, "joint": 1.0})
AFTER = Losses(
    {"audio": 0.5, "image": 0.6, "joint": 0.2}, {"audio": 1.1, "image": 1.3, "joint": 0.7}
)
# audio: G = 0.4, O = 0.6 - 0.5; image got worse; joint: G = 0.3, O = 0.5 - 0
SHARE = np.array([0.4 / 0.1**2, 0, 0.3 / 0.5**2])
SHARE = SHARE / SHARE.sum()


def test_blending_weights_by_hand():
    weights = blending_weights(BEFORE, AFTER)
    np.testing.assert_allclose([weights[name] for name in NAMED], SHARE, rtol=1e-5)
    nothing_learned = blending_weights(AFTER, AFTER)
    np.testing.assert_allclose([*nothing_learned.values()], 1 / 3, rtol=1e-6)


def test_gradients_are_blended_from_the_second_measurement_on():
    optimizer = optax.chain(gradient_blending(NAMED), optax.sgd(1.0))
    params = {"w": jnp.zeros(2)}
    gradients = {name: {"w": jnp.array([1.0, 10.0]) * (m + 1)} for m, name in enumerate(NAMED)}
    update = jax.jit(optimizer.update)
    equal, state = update(gradients, optimizer.init(params), params, losses=BEFORE)
    assert_close(equal, {"w": jnp.array([-2.0, -20.0])}, 1e-6)
    blended, state = update(gradients, state, params, losses=AFTER)
    value = -(SHARE * [1, 2, 3]).sum()
    assert_close(blended, {"w": jnp.array([value, 10 * value])}, 1e-5)
    assert_close(update(gradients, state, params)[0], blended)  # until the next measurement


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
    both, one = {"audio": PARAMS, "image": PARAMS}, {"audio": 1.0}
    with pytest.raises(ValueError, match=r"\['audio', 'image'\], got \['audio'\]"):
        blending.update(both, blending.init(PARAMS), losses=Losses(one, one))
