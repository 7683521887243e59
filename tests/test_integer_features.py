"""Integers give what the same numbers give as float32: raw pixels, counts, tables of integers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import metajax as mj
from metajax import nets
from metajax.modalities.measurement import multiplied
from metajax.modalities.support_statistics import leave_one_out_scores
from metajax.nets import fusion
from metajax.nets.tokens import pool_tokens

KEY = jax.random.key(0)
Y = np.tile([0, 1], 6)  # 6 × 40 and more wraps uint8
X = np.random.default_rng(0).integers(0, 30, (12, 4)) + 40 + 30 * Y[:, None]
OTHER = np.random.default_rng(1).integers(1, 100, (12, 4))
ENCODER = nets.identity_encoder
INFO = np.array([[90, 3, 7, 100], [5, 110, 60, 2]])


def modalities(dtype):
    return mj.data.as_modalities({"a": jnp.asarray(X, dtype), "b": jnp.asarray(OTHER, dtype)})


def modal_batch(dtype):
    return mj.Batch(modalities(dtype), jnp.asarray(Y))


def written(adaptation, dtype, y=Y, info=()):
    params = adaptation.init(mj.Params({}, {}), KEY)
    batch = mj.Batch(jnp.asarray(X, dtype), jnp.asarray(y), info=info)
    return adaptation.adapt(params, batch, KEY).fast


def described(make):
    describe = lambda params, info, key=None: info
    return lambda dtype: written(make(describe), dtype, info=jnp.asarray(INFO, dtype))


def queried(make):
    def loss(dtype):
        learner = make((ENCODER, mj.Params({}, {})), 2)
        batch = mj.Batch(jnp.asarray(X, dtype), jnp.asarray(Y))
        return learner.task_loss(learner.params, mj.Task(batch, batch), KEY)

    return loss


def weights(dtype):
    weigh = mj.modalities.support_weights(ENCODER, 2)
    start = mj.Params({"modality_weights": {"a": 0.0, "b": 0.0}}, {})
    params = weigh.init(start, KEY)
    params = params._replace(rule={**params.rule, "out": jnp.ones(16)})
    return weigh.adapt(params, modal_batch(dtype), KEY).fast


def late(dtype):
    params = mj.modalities.modal_prototypes(ENCODER, 2).adapt(
        mj.Params({}, {}), modal_batch(dtype), KEY
    )
    return mj.modalities.late_head(ENCODER)(params, modalities(dtype))


def left_out(dtype):
    params = mj.Params({"modality_weights": {"a": -8.0, "b": -9.0}}, {})
    loss = mj.modalities.leave_one_out_loss(ENCODER, 2)
    return loss(params, modal_batch(dtype), KEY)[0]


def scores_left_out(dtype):
    return leave_one_out_scores(jnp.asarray(X, dtype), jnp.asarray(np.eye(2)[Y], dtype))


def completed(dtype):
    priors = {name: jax.random.normal(KEY, (2, 4), jnp.float32) for name in "ab"}
    start = mj.modalities.init_completion(priors, KEY)
    x = modalities(dtype)
    lacking = x._replace(present={**x.present, "b": jnp.asarray(Y > 0)})
    return mj.modalities.complete(start, lacking, KEY).value


def ruled(dtype):
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat([0, 1], 4), (6, 1))
    value = {name: rng.integers(0, 6, (6, 8, 3)) + 3 * y[..., None] for name in "ab"}

    def batch(rows):
        present = {name: jnp.ones((6, 4), bool) for name in "ab"}
        own = {name: jnp.asarray(part[:, rows], dtype) for name, part in value.items()}
        return mj.Batch(mj.types.Modalities(own, present), jnp.asarray(y[:, rows]))

    rows = np.array([0, 1, 4, 5])
    tasks = mj.Task(batch(rows), batch(rows + 2))
    found = mj.modalities.ruler(
        ENCODER, mj.Params({}, {}), tasks, tasks, KEY, ways=2, shots=[2], grid=2, steps=3
    )[2]
    return found.accuracy


def scaled(dtype):
    tasks = mj.Task(modal_batch(dtype), modal_batch(dtype))
    return multiplied(tasks, jnp.float32(0.1)).query.x.value


def in_context(dtype):
    learner = mj.algorithms.cavia(nets.MLP(9, (3,), 1, rngs=nnx.Rngs(0)), context=5)
    params = learner.params._replace(fast={"context": jnp.linspace(0.1, 0.9, 5)})
    return learner.apply(params, jnp.asarray(X, dtype))


HEADS = {
    "prototypes": lambda dtype: written(mj.prototypes(ENCODER, 2), dtype),
    "ridge": lambda dtype: written(mj.ridge(ENCODER, 2), dtype),
    "ridge of targets": lambda dtype: written(
        mj.ridge(ENCODER, None), dtype, y=jnp.asarray(OTHER, dtype)
    ),
    "adaptive_prototypes": described(
        lambda describe: mj.modalities.adaptive_prototypes(ENCODER, describe, 2, 4)
    ),
    "cross_modal_prototypes": described(
        lambda describe: mj.modalities.cross_modal_prototypes(ENCODER, describe, 2)
    ),
    "described_head": described(lambda describe: mj.modalities.described_head(describe, 2, 4)),
    "protonets": queried(mj.algorithms.protonets),
    "r2d2": queried(mj.algorithms.r2d2),
    "late_head": late,
    "support_weights": weights,
    "leave_one_out_loss": left_out,
    "leave_one_out_scores": scores_left_out,
    "complete": completed,
    "modality_priors": lambda dtype: mj.modalities.modality_priors(modalities(dtype), 2),
    "multiplied": scaled,
    "ruler": ruled,
    "cavia": in_context,
}


def of_layer(make, shape=(12, 4)):
    def output(dtype):
        return make(nnx.Rngs(0))(jnp.asarray(X.reshape(shape), dtype))

    return output


def of_norm(policy):
    def output(dtype):
        norm = policy(4)
        norm.scale = nnx.Param(jnp.array([0.5, -0.25, 0.1, 2.5]))
        norm.shift = nnx.Param(jnp.array([0.5, -0.25, 0.1, 2.5]))
        x = jnp.asarray(X.reshape(3, 2, 2, 4), dtype)
        return norm(x), norm(x, pool=nets.max_pool)

    return output


EDGES = [[i, i + 1] for i in range(11)]
SERIES = (3, 4, 4)
LAYERS = {
    "TaskNorm": of_norm(nets.TaskNorm),
    "FrozenNorm": of_norm(nets.FrozenNorm),
    "GroupNorm": of_norm(functools.partial(nets.GroupNorm, groups=2)),
    "NoNorm": of_norm(nets.NoNorm),
    "GCN": of_layer(lambda rngs: nets.GCN(EDGES, 4, (3,), 2, nodes=12, rngs=rngs)),
    "MLP": of_layer(lambda rngs: nets.MLP(4, (3,), 2, rngs=rngs)),
    "DeepSets": of_layer(lambda rngs: nets.DeepSets(4, 2, width=3, rngs=rngs), SERIES),
    "GRU": of_layer(lambda rngs: nets.GRU(4, 2, width=3, rngs=rngs), SERIES),
    "TemporalConv": of_layer(
        lambda rngs: nets.TemporalConv(4, 2, width=3, blocks=2, rngs=rngs), SERIES
    ),
    "SequenceTransformer": of_layer(
        lambda rngs: nets.SequenceTransformer(4, 2, width=4, layers=1, heads=2, rngs=rngs), SERIES
    ),
    "pool_tokens": lambda dtype: pool_tokens(
        jnp.asarray(np.tile(X, 30).reshape(2, 720, 1), dtype), jnp.ones((2, 720), bool)
    ),
}

NAMES = ("a", "b")
MAKERS = {
    "mean": lambda rngs: fusion.mean,
    "total": lambda rngs: fusion.total,
    "maximum": lambda rngs: fusion.maximum,
    "Weighted": lambda rngs: fusion.Weighted({"a": 0.5, "b": 0.25}),
    "learned": lambda rngs: fusion.Weighted({"a": 0.5, "b": 0.25}, learned=True),
    "Late": lambda rngs: fusion.Late(NAMES, 4, 2, rngs=rngs),
    "LowRankTensor": lambda rngs: fusion.LowRankTensor(NAMES, 4, rank=2, rngs=rngs),
    "Conditioned": lambda rngs: fusion.Conditioned(NAMES, 4, main="a", rngs=rngs),
} | {
    kind.__name__: lambda rngs, kind=kind: kind(NAMES, 4, rngs=rngs)
    for kind in (
        fusion.Concatenation,
        fusion.Deep,
        fusion.Gated,
        fusion.MixtureOfExperts,
        fusion.Tensor,
        fusion.Multiplicative,
        fusion.ProductOfExperts,
        fusion.StackedConvolution,
        fusion.Recurrent,
        fusion.CrossAttention,
    )
}
MAKERS["Bottleneck"] = lambda rngs: fusion.Bottleneck(NAMES, 4, layers=0, fusion_layer=0, rngs=rngs)


def of_fusion(make):
    def output(dtype):
        fuse = make(nnx.Rngs(0))
        x = modalities(dtype)
        if not getattr(fuse, "reads_tokens", False):
            return fuse(x.value, x.present)
        tokens = {name: part.reshape(3, 4, 4) for name, part in x.value.items()}
        return fuse(tokens, {name: jnp.ones((3, 4), bool) for name in NAMES})

    return output


FUSIONS = {f"fusion.{name}": of_fusion(make) for name, make in MAKERS.items()}


@functools.cache
def with_floats(name):
    return CASES[name](jnp.float32)


CASES = HEADS | LAYERS | FUSIONS


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("name", CASES)
def test_integers_give_what_the_same_floats_give(name, dtype):
    right = with_floats(name)
    found = CASES[name](dtype)
    assert jax.tree.structure(found) == jax.tree.structure(right)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
    for own, expected in pairs:
        np.testing.assert_allclose(own, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_heads_of_integers_are_those_of_numpy(dtype):
    means = np.stack([X[k == Y].mean(0) for k in (0, 1)])
    head = written(mj.prototypes(ENCODER, 2), dtype)["head"]
    np.testing.assert_allclose(head["kernel"], 2 * means.T, rtol=1e-6)
    np.testing.assert_allclose(head["bias"], -(means**2).sum(1), rtol=1e-6)

    # The rule of `ridge` starts with scale 1 and λ = 1.
    kernel = np.linalg.solve(X.T @ X + np.eye(4), X.T @ np.eye(2)[Y])
    found = written(mj.ridge(ENCODER, 2), dtype)["head"]["kernel"]
    np.testing.assert_allclose(found, kernel, rtol=1e-3, atol=1e-5)
