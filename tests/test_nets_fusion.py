"""One table of every fusion, times the properties that all of them must have."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import assert_close

from metajax.nets import fusion

NAMES = ("audio", "image", "text")
ROWS, WIDTH, TIME = 9, 4, 3
M, D = len(NAMES), WIDTH
BLOCK = 12 * D**2 + 9 * D
HERE = np.ones(2, bool)
ORDERED = ("convolution", "recurrent")  # they read modalities in the order of their names


class Row(NamedTuple):
    make: object  # (names, rngs) -> fusion
    parameters: int
    weights: bool = False  # whether it returns weights


def make_bottleneck(names, rngs):
    options = {"layers": 2, "fusion_layer": 1, "bottlenecks": 2, "heads": 2}
    return fusion.Bottleneck(names, D, **options, rngs=rngs)


FUSIONS = {
    "mean": Row(lambda names, rngs: fusion.mean, 0, weights=True),
    "total": Row(lambda names, rngs: fusion.total, 0),
    "maximum": Row(lambda names, rngs: fusion.maximum, 0),
    "static": Row(
        lambda names, rngs: fusion.Weighted({"text": 3.0, "audio": 1.0, "image": 2.0}),
        0,
        weights=True,
    ),
    "learned": Row(
        lambda names, rngs: fusion.Weighted(dict.fromkeys(names, 1.0), learned=True),
        M,
        weights=True,
    ),
    "concatenation": Row(
        lambda names, rngs: fusion.Concatenation(names, D, rngs=rngs), M * D**2 + D
    ),
    "deep": Row(
        lambda names, rngs: fusion.Deep(names, D, layers=2, rngs=rngs), (M + 2) * D**2 + 3 * D
    ),
    "gated": Row(
        lambda names, rngs: fusion.Gated(names, D, rngs=rngs),
        M * D**2 + M**2 * D**2 + M * D,
        weights=True,
    ),
    "conditioned": Row(
        lambda names, rngs: fusion.Conditioned(names, D, main="image", rngs=rngs),
        2 * (M - 1) * D**2,
    ),
    "convolution": Row(
        lambda names, rngs: fusion.StackedConvolution(names, D, rngs=rngs), 3 * D**2 + D
    ),
    "recurrent": Row(lambda names, rngs: fusion.Recurrent(names, D, rngs=rngs), 6 * D**2 + 3 * D),
    "tensor": Row(lambda names, rngs: fusion.Tensor(names, D, rngs=rngs), (D + 1) ** M * D + D),
    "low_rank": Row(
        lambda names, rngs: fusion.LowRankTensor(names, D, rank=2, rngs=rngs),
        M * 2 * (D + 1) * D + D,
    ),
    "multiplicative": Row(
        lambda names, rngs: fusion.Multiplicative(names, D, rngs=rngs),
        M * (M - 1) // 2 * D**3 + M * D**2 + D,
    ),
    "product": Row(
        lambda names, rngs: fusion.ProductOfExperts(names, D, rngs=rngs),
        M * (2 * D**2 + D),
        weights=True,
    ),
    "mixture": Row(
        lambda names, rngs: fusion.MixtureOfExperts(names, D, rngs=rngs),
        M * (2 * D**2 + 2 * D + 1),
        weights=True,
    ),
    "late": Row(
        lambda names, rngs: fusion.Late(names, D, D, rngs=rngs), M * (D * D + D + 1), weights=True
    ),
    "cross_attention": Row(
        lambda names, rngs: fusion.CrossAttention(names, D, heads=2, rngs=rngs),
        M * (M - 1) * BLOCK,
    ),
    "bottleneck": Row(make_bottleneck, M * 2 * BLOCK + 2 * D),
}
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.xdist_group(f"fusion {n}")) for n in FUSIONS]
)


def make_inputs(tokens, seed=0):
    """Features and presence: all subsets of the modalities, and one row more."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, TIME, WIDTH) if tokens else (ROWS, WIDTH)
    features = {name: jnp.asarray(rng.normal(size=shape)) for name in NAMES}
    masks = np.array([*itertools.product([False, True], repeat=M), (True,) * M])
    present = {name: jnp.asarray(masks[:, m]) for m, name in enumerate(NAMES)}
    if tokens:
        present = {
            name: jnp.stack([here, here, here & False], axis=1) for name, here in present.items()
        }
    return features, present


def as_function(module):
    """(apply, params) of a fusion, in float64."""
    if not isinstance(module, nnx.Module):
        return lambda params, *inputs: module(*inputs), {}
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), nnx.to_pure_dict(params))
    return lambda params, *inputs: nnx.merge(graph, params, rest, copy=True)(*inputs), params


@functools.cache
def make(name):
    """(run, params, whether it reads tokens).

    `run` gives what is fused, and the gradients of a nonlinear sum to params and features.
    """
    module = FUSIONS[name].make(NAMES, nnx.Rngs(0))
    apply, params = as_function(module)

    def loss(params, features, present):
        fused = apply(params, features, present)
        return jnp.sin(fused.features + 0.3).sum(), fused

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    return run, params, getattr(module, "reads_tokens", False)


@every
def test_values_of_an_absent_modality_change_nothing(name):
    run, params, tokens = make(name)
    features, present = make_inputs(tokens)
    (_, fused), (to_params, to_features) = run(params, features, present)
    spoiled = {n: jnp.where(present[n][..., None], f, jnp.nan) for n, f in features.items()}
    (_, again), gradients = run(params, spoiled, present)
    assert_close((again, gradients), (fused, (to_params, to_features)), 0)
    for n in NAMES:
        assert not np.any(np.asarray(to_features[n])[~np.asarray(present[n])])
        assert np.any(np.asarray(to_features[n])), "what is present reaches the output"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((fused, to_params)))
    moved = {n: f.at[0].set(1.0).at[-1].set(2.0) for n, f in features.items()}
    others = run(params, moved, present)[0][1]
    assert_close(*(jax.tree.map(lambda leaf: leaf[1:-1], one) for one in (others, fused)), 1e-12)


@every
def test_parameters_are_as_many_as_declared_and_all_receive_gradient(name):
    run, params, tokens = make(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == FUSIONS[name].parameters
    summed = jax.tree.map(jnp.zeros_like, params)
    for seed in range(3):
        gradient = run(params, *make_inputs(tokens, seed))[1][0]
        summed = jax.tree.map(lambda total, leaf: total + jnp.abs(leaf), summed, gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(summed):
        assert (leaf > 0).all(), jax.tree_util.keystr(path)


@every
def test_modalities_are_distinguished_by_name(name):
    run, params, tokens = make(name)
    features, present = make_inputs(tokens)
    swapped = [{n: tree[n] for n in reversed(NAMES)} for tree in (features, present)]
    assert_close(run(params, *swapped)[0], run(params, features, present)[0], 0)
    misspelled = {("imgae" if n == "image" else n): f for n, f in features.items()}
    with pytest.raises(ValueError, match="knows the modalities"):
        run(params, misspelled, present)


@every
def test_only_the_ordered_fusions_depend_on_the_order_of_their_names(name):
    run, params, tokens = make(name)
    features, present = make_inputs(tokens)
    turned, other = as_function(FUSIONS[name].make(NAMES[::-1], nnx.Rngs(0)))
    assert_close(other, params, 0)
    expected = run(params, features, present)[0][1]
    found = jax.jit(turned)(params, features, present)
    if name not in ORDERED:
        assert_close(found, expected, 1e-12)
        return
    assert not np.allclose(found.features[-1], expected.features[-1])
    ends = dict(zip(NAMES, NAMES[::-1], strict=True))
    swapped = [{ends[n]: tree[n] for n in NAMES} for tree in (features, present)]
    assert_close(jax.jit(turned)(params, *swapped), expected, 1e-12)


@every
def test_weights_are_returned(name):
    run, params, tokens = make(name)
    features, present = make_inputs(tokens)
    weights = run(params, features, present)[0][1].weights
    assert bool(weights) == FUSIONS[name].weights
    if weights:
        stacked, here = (np.stack([tree[n] for n in NAMES]) for tree in (weights, present))
        assert (stacked >= 0).all() and not stacked[~here].any()
        np.testing.assert_allclose(stacked.sum(axis=0), here.any(axis=0), atol=1e-12)


def value(module, features, present):
    return jax.jit(lambda *inputs: module(*inputs).features)(features, present)


def test_weighted_at_equal_weights_is_the_mean():
    features, present = make_inputs(False)
    for module in (
        fusion.Weighted(dict.fromkeys(NAMES, 0.7)),
        fusion.Weighted(dict.fromkeys(NAMES, 2.0), learned=True),
    ):
        expected = value(fusion.mean, features, present)
        assert_close(value(module, features, present), expected, 1e-6)
    unequal = fusion.Weighted({"audio": 0.0, "image": 1.0, "text": 3.0})
    expected = (features["image"][-1] + 3 * features["text"][-1]) / 4
    assert_close(value(unequal, features, present)[-1], expected)


def test_low_rank_at_full_rank_is_tensor_fusion():
    names, features, present = NAMES[:2], *make_inputs(False)
    features, present = ({n: tree[n] for n in names} for tree in (features, present))
    full = fusion.Tensor(names, WIDTH, rngs=nnx.Rngs(0))
    low = fusion.LowRankTensor(names, WIDTH, rank=WIDTH + 1, rngs=nnx.Rngs(0))
    # W[i, j, :] = Σᵣ [i = r] · W[r, j, :]: one product for each entry of the first modality.
    unit = jnp.eye(WIDTH + 1)[:, :, None]
    low.factors["audio"].set_value(jnp.broadcast_to(unit, (WIDTH + 1, WIDTH + 1, WIDTH)))
    low.factors["image"].set_value(full.kernel[...])
    assert_close(value(low, features, present), value(full, features, present), 1e-6)
    with_one = [np.pad(features[n], ((0, 0), (1, 0)), constant_values=1)[-1] for n in names]
    outer = np.outer(*with_one)
    expected = jnp.einsum("ij,ijd->d", outer, full.kernel[...])
    assert_close(value(full, features, present)[-1], expected, 1e-6)


def test_product_of_experts_is_the_gaussian_product_and_does_not_overflow():
    features, present = make_inputs(False)
    module = fusion.ProductOfExperts(NAMES, WIDTH, rngs=nnx.Rngs(0))
    t = {n: np.exp(module.precisions[n](features[n])) for n in NAMES}
    mean = {n: features[n] @ module.means[n][...] for n in NAMES}
    expected = sum(t[n] * mean[n] for n in NAMES) / (1 + sum(t.values()))
    assert_close(value(module, features, present)[-1], expected[-1], 1e-6)
    large = {n: 1e4 * f for n, f in features.items()}
    assert np.isfinite(value(module, large, present)).all()


def test_concatenation_is_a_linear_layer_and_maximum_is_the_largest():
    features, present = make_inputs(False)
    module = fusion.Concatenation(NAMES, WIDTH, rngs=nnx.Rngs(0))
    kernel = jnp.concatenate([module.kernel[n][...] for n in NAMES])
    side_by_side = jnp.concatenate([features[n] for n in NAMES], axis=1)
    assert_close(value(module, features, present)[-1], side_by_side[-1] @ kernel, 1e-6)
    largest = jnp.max(jnp.stack([features[n][-1] for n in NAMES]), axis=0)
    assert_close(value(fusion.maximum, features, present)[-1], largest)


def test_conditioned_scales_and_shifts_the_main_modality():
    features, present = make_inputs(False)
    module = fusion.Conditioned(NAMES, WIDTH, main="image", rngs=nnx.Rngs(0))
    output = value(module, features, present)
    product = lambda kernels, n: features[n] @ kernels[n][...]
    scale = 1 + product(module.scale, "audio") + product(module.scale, "text")
    shift = product(module.shift, "audio") + product(module.shift, "text")
    assert_close(output[-1], (scale * features["image"] + shift)[-1], 1e-6)
    only_image, only_text = 2, 1  # rows of all subsets of (audio, image, text)
    assert_close(output[only_image], features["image"][only_image])
    assert_close(output[only_text], product(module.shift, "text")[only_text], 1e-6)


def test_stack_takes_the_order_of_the_names():
    features, present = make_inputs(False)
    names, stacked, here = fusion.stack(features, present, NAMES[::-1])
    assert names == list(NAMES[::-1])
    assert_close(stacked[0][-1], features["text"][-1])
    assert_close(here[2], present["audio"])
    assert fusion.stack(features, present)[0] == list(NAMES)


def test_bottlenecks_go_from_early_to_late():
    features, present = make_inputs(True)

    def run(layer):
        module = fusion.Bottleneck(
            NAMES, WIDTH, layers=2, fusion_layer=layer, bottlenecks=2, heads=2, rngs=nnx.Rngs(0)
        )
        return jax.jit(lambda present: module(features, present).features)

    late_of = run(2)
    early, middle, late = run(0)(present), run(1)(present), late_of(present)
    assert not np.allclose(early[-1], middle[-1])
    assert not np.allclose(middle[-1], late[-1])
    absent = {n: here & False for n, here in present.items()}
    alone = [late_of({**absent, n: present[n]}) for n in NAMES]
    assert_close(late[-1], sum(output[-1] for output in alone) / M, 1e-6)
    assert_close(alone[0][0], jnp.zeros(WIDTH), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fusion.Weighted({"a": -1.0}), "zero or more"),
        (lambda: fusion.Weighted({"a": 0.0, "b": 1.0}, learned=True), "above zero"),
        (lambda: fusion.Conditioned(("a", "b"), 4, main="c", rngs=nnx.Rngs(0)), "main='c'"),
        (lambda: fusion.Conditioned(("a",), 4, main="a", rngs=nnx.Rngs(0)), "not the only one"),
        (lambda: fusion.Concatenation(("a", "a"), 4, rngs=nnx.Rngs(0)), "names that differ"),
        (lambda: fusion.Recurrent(("a",), 4, rngs=nnx.Rngs(0)), "two or more"),
        (lambda: fusion.StackedConvolution(("a",), 4, rngs=nnx.Rngs(0)), "two or more"),
        (lambda: fusion.Recurrent(("a", "a"), 4, rngs=nnx.Rngs(0)), "names that differ"),
        (lambda: fusion.Concatenation((), 4, rngs=nnx.Rngs(0)), "names that differ"),
        (
            lambda: fusion.LowRankTensor(("a", "b"), 4, rank=0, rngs=nnx.Rngs(0)),
            "rank must be .* got 0",
        ),
        (lambda: fusion.CrossAttention(("a",), 4, rngs=nnx.Rngs(0)), "two or more"),
        (
            lambda: fusion.Bottleneck(("a",), 4, layers=1, fusion_layer=2, rngs=nnx.Rngs(0)),
            "fusion_layer=2",
        ),
        (
            lambda: fusion.mean(
                {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 4))}, dict.fromkeys("ab", HERE)
            ),
            "one shape",
        ),
        (
            lambda: fusion.Bottleneck(("a",), 4, rngs=nnx.Rngs(0))(
                {"a": jnp.ones((2, 4))}, {"a": HERE}
            ),
            "reads tokens",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()
