"""What functions return has the type that the documentation names."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj
from metajax.differentiate import Inner, Strategy
from metajax.types import Apply

KEY = jax.random.key(0)
BATCH = mj.Batch(jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [4.0]]))
TASK = mj.Task(BATCH, BATCH)


def loss(params, batch, key):
    """A line through zero."""
    return ((params.fast * batch.x - batch.y) ** 2).mean(), {}


PARAMS = mj.Params(fast=jnp.array(0.5), slow=())
MAML = mj.inner_loop(loss, optax.sgd(0.1), steps=1)
TASKS = jax.tree.map(lambda leaf: leaf[None], TASK)


def test_the_core():
    outer = mj.outer_loop(mj.query_loss(MAML, loss), optax.sgd(0.1))
    state, info = outer.step(outer.init(PARAMS), TASKS, KEY)
    assert isinstance(outer, mj.OuterLoop) and isinstance(state, mj.State)
    assert isinstance(info, mj.Info) and int(state.step) == 1 and int(info.skipped) == 0
    summary = mj.evaluate(mj.query_loss(MAML, loss), PARAMS, TASKS, KEY)["loss"]
    assert isinstance(summary, mj.Summary) and summary.per_task.shape == (1,)
    assert isinstance(MAML.inner(PARAMS, BATCH), Inner) and isinstance(mj.unroll(), Strategy)
    rule = mj.learned(optax.sgd, 0.1)
    options = {"horizon": 2, "truncation": 1, "pairs": 1, "std": 0.1}
    persistent = mj.persistent(rule, loss, optax.sgd(0.1), **options)
    start = persistent.init(PARAMS._replace(rule=rule.init(PARAMS, KEY)), TASKS, KEY)
    assert isinstance(start, mj.outer.PersistentState) and start.age.tolist() == [0]
    with pytest.raises(ValueError, match="call init"):
        persistent.init(PARAMS._replace(rule=rule.init(PARAMS, KEY)))


def test_insides_of_strategies():
    inner = MAML.inner(PARAMS, BATCH)
    late = mj.differentiate.solve_late(
        jax.grad(inner.loss), inner._replace(fast=jnp.array(0.0)), jax.random.split(KEY, 3), last=1
    )
    plain = mj.inner_loop(loss, optax.sgd(0.1), steps=3)
    expected = plain.adapt(PARAMS._replace(fast=jnp.array(0.0)), BATCH, KEY).fast
    np.testing.assert_allclose(late, expected)
    square = lambda fast, inputs, key: (fast * inputs) ** 2
    products = mj.differentiate.mixed_products(square, 3.0, 2.0, u=1.0, key=KEY)
    assert products == (8.0, 24.0)


def test_diagnostics():
    check = mj.check_meta_gradient(MAML, loss, PARAMS, TASK, KEY)
    assert isinstance(check, mj.diagnostics.Check) and check.not_finite == []
    make = lambda strategy: mj.query_loss(
        mj.inner_loop(loss, optax.sgd(0.1), steps=1, differentiate=strategy), loss
    )
    costs = mj.estimate_cost(make, {"unroll": mj.unroll()}, PARAMS, TASKS)
    assert isinstance(costs["unroll"], mj.diagnostics.Cost)


def test_data_and_modalities():
    letters = mj.data.dataset(np.zeros((4, 2)), np.array([0, 0, 1, 1]))
    assert isinstance(letters, mj.data.Dataset)
    assert isinstance(mj.data.describe(letters), mj.data.Description)
    rows = mj.data.dataset(np.arange(4, dtype=np.int32), np.array([0, 0, 1, 1]))
    sample = mj.data.meta_batch(mj.data.episodes(2, 1, 1), tasks=2)
    assert isinstance(mj.data.stream(sample, rows, lambda numbers: numbers), mj.data.Stream)
    line = jnp.array([0.0, 1.0])
    lead = mj.modalities.robustness(line, 1 - line / 2, 1 - line)
    assert isinstance(lead, mj.modalities.Robustness) and lead.relative == 0.25
    features = {"a": jnp.ones((2, 3)), "b": 3 * jnp.ones((2, 3))}
    present = {"a": jnp.ones(2, bool), "b": jnp.ones(2, bool)}
    fused = mj.nets.fusion.mean(features, present)
    assert isinstance(fused, mj.nets.fusion.Fused)
    np.testing.assert_array_equal(fused.features, 2 * jnp.ones((2, 3)))


@pytest.mark.parametrize(
    "protocol", [Apply, mj.TaskLoss, mj.modalities.Encode, mj.modalities.Describe]
)
def test_protocols_of_functions_end_with_a_key(protocol):
    assert getattr(protocol, "_is_protocol", False)
    call = inspect.signature(protocol.__call__)
    positional = [p.name for p in call.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert positional[1] == "params" and positional[-1] == "key"


def test_a_fusion_is_any_function_of_features_and_presence():
    def first(features, present):
        return mj.nets.fusion.Fused(features["a"], {})

    fusion: mj.nets.fusion.Fusion = first
    encoders = {name: mj.nets.MLP(2, (), 3, rngs=nnx.Rngs(0)) for name in "ab"}
    net = mj.nets.Multimodal(encoders, fusion, 3, 2, rngs=nnx.Rngs(2))
    x = mj.data.as_modalities({"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2))})
    assert net(x).shape == (4, 2)
