"""One table of every fusion, times the properties that all of them must have."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import assert_close

from metajax.nets import fusion

NAMES, ROWS, WIDTH, TIME = ("audio", "image", "text"), 9, 4, 3
BLOCK = 12 * WIDTH**2 + 9 * WIDTH
ONES = dict.fromkeys(NAMES, 1.0)
HERE = np.ones(2, bool)
M, D = len(NAMES), WIDTH
# {name: (make, its declared number of parameters, whether it returns weights)}
FUSIONS = {
    "mean": (lambda rngs: fusion.mean, 0, True),
    "total": (lambda rngs: fusion.total, 0, False),
    "maximum": (lambda rngs: fusion.maximum, 0, False),
    "static": (lambda rngs: fusion.Weighted({"text": 3.0, "audio": 1.0, "image": 2.0}), 0, True),
    "learned": (lambda rngs: fusion.Weighted(ONES, learned=True), M, True),
    "concatenation": (lambda rngs: fusion.Concatenation(NAMES, D, rngs=rngs), M * D**2 + D, False),
    "deep": (lambda rngs: fusion.Deep(NAMES, D, layers=2, rngs=rngs), (M + 2) * D**2 + 3 * D, False),
    "gated": (lambda rngs: fusion.Gated(NAMES, D, rngs=rngs), M * D**2 + M**2 * D**2 + M * D, True),
    "film": (lambda rngs: fusion.FiLM(NAMES, D, main="image", rngs=rngs), 2 * (M - 1) * D**2, False),
    "convolution": (lambda rngs: fusion.StackedConvolution(NAMES, D, rngs=rngs), 3 * D**2 + D, False),
    "recurrent": (lambda rngs: fusion.Recurrent(NAMES, D, rngs=rngs), 6 * D**2 + 3 * D, False),
    "tensor": (lambda rngs: fusion.Tensor(NAMES, D, rngs=rngs), (D + 1) ** M * D + D, False),
    "low_rank": (
        lambda rngs: fusion.LowRankTensor(NAMES, D, rank=2, rngs=rngs), M * 2 * (D + 1) * D + D, False,
    ),
    "multiplicative": (
        lambda rngs: fusion.Multiplicative(NAMES, D, rngs=rngs), M * (M - 1) // 2 * D**3 + M * D**2 + D, False,
    ),
    "product": (lambda rngs: fusion.ProductOfExperts(NAMES, D, rngs=rngs), M * (2 * D**2 + D), True),
    "mixture": (lambda rngs: fusion.MixtureOfExperts(NAMES, D, rngs=rngs), M * (2 * D**2 + 2 * D + 1), True),
    "late": (lambda rngs: fusion.Late(NAMES, D, D, rngs=rngs), M * (D * D + D + 1), True),
    "cross_attention": (
        lambda rngs: fusion.CrossAttention(NAMES, D, heads=2, rngs=rngs), M * (M - 1) * BLOCK, False,
    ),
    "bottleneck": (
        lambda rngs: fusion.Bottleneck(NAMES, D, layers=2, fusion_layer=1, bottlenecks=2, heads=2, rngs=rngs),
        M * 2 * BLOCK + 2 * D, False,
    ),
}  # fmt: skip
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


@functools.cache
def make(name):
    """(run, params): run gives the output, the weights, and the gradients of a nonlinear sum to params and features."""
    module = FUSIONS[name][0](nnx.Rngs(0))
    if isinstance(module, nnx.Module):
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), nnx.to_pure_dict(params))
        apply = lambda params, *inputs: nnx.merge(graph, params, rest, copy=True)(*inputs)
    else:
        params, apply = {}, lambda params, *inputs: module(*inputs)

    def loss(params, features, present):
        fused = apply(params, features, present)
        return jnp.sin(fused.features + 0.3).sum(), fused

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    return run, params, getattr(module, "reads_tokens", False)


@every
def test_what_stands_in_an_absent_modality_changes_nothing(name):
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
    _, number, _ = FUSIONS[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == number
    summed = jax.tree.map(jnp.zeros_like, params)
    for seed in range(3):
        gradient = run(params, *make_inputs(tokens, seed))[1][0]
        summed = jax.tree.map(lambda total, leaf: total + jnp.abs(leaf), summed, gradient)
    silent = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(summed)
    }
    assert [path for path, leaf in silent.items() if not (leaf > 0).all()] == []


@every
def test_names_and_not_their_order_tell_modalities_apart(name):
    run, params, tokens = make(name)
    features, present = make_inputs(tokens)
    swapped = [{n: tree[n] for n in reversed(NAMES)} for tree in (features, present)]
    assert_close(run(params, *swapped)[0], run(params, features, present)[0], 0)
    misspelled = {("imgae" if n == "image" else n): f for n, f in features.items()}
    with pytest.raises(ValueError, match="knows the modalities"):
        run(params, misspelled, present)


@every
def test_weights_are_returned(name):
    run, params, tokens = make(name)
    features, present = make_inputs(tokens)
    weights = run(params, features, present)[0][1].weights
    assert bool(weights) == FUSIONS[name][2]
    if weights:
        stacked, here = (np.stack([tree[n] for n in NAMES]) for tree in (weights, present))
        assert (stacked >= 0).all() and not stacked[~here].any()
        np.testing.assert_allclose(stacked.sum(axis=0), here.any(axis=0), atol=1e-12)


def value(module, features, present):
    return module(features, present).features


def test_weighted_at_equal_weights_is_the_mean():
    features, present = make_inputs(False)
    for module in (
        fusion.Weighted(dict.fromkeys(NAMES, 0.7)),
        fusion.Weighted(dict.fromkeys(NAMES, 2.0), learned=True),
    ):
        assert_close(
            value(module, features, present), fusion.mean(features, present).features, 1e-6
        )
    unequal = fusion.Weighted({"audio": 0.0, "image": 1.0, "text": 3.0})
    expected = (features["image"][-1] + 3 * features["text"][-1]) / 4
    assert_close(value(unequal, features, present)[-1], expected)


def test_low_rank_at_full_rank_is_tensor_fusion():
    names, features, present = NAMES[:2], *make_inputs(False)
    features, present = ({n: tree[n] for n in names} for tree in (features, present))
    full = fusion.Tensor(names, WIDTH, rngs=nnx.Rngs(0))
    low = fusion.LowRankTensor(names, WIDTH, rank=WIDTH + 1, rngs=nnx.Rngs(0))
    # W[i, j, :] = Σᵣ [i = r] · W[r, j, :]: one product for each entry of the first modality.
    low.factors["audio"].set_value(
        jnp.broadcast_to(jnp.eye(WIDTH + 1)[:, :, None], (WIDTH + 1, WIDTH + 1, WIDTH))
    )
    low.factors["image"].set_value(full.kernel[...])
    assert_close(value(low, features, present), value(full, features, present), 1e-6)
    outer = np.einsum(
        "ni,nj->nij", *(np.pad(features[n], ((0, 0), (1, 0)), constant_values=1) for n in names)
    )
    assert_close(
        value(full, features, present)[-1],
        jnp.einsum("ij,ijd->d", outer[-1], full.kernel[...]),
        1e-6,
    )


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
    assert_close(fusion.maximum(features, present).features[-1], largest)


def test_bottlenecks_go_from_early_to_late():
    features, present = make_inputs(True)
    make = lambda layer: fusion.Bottleneck(
        NAMES, WIDTH, layers=2, fusion_layer=layer, bottlenecks=2, heads=2, rngs=nnx.Rngs(0)
    )
    early, middle, late = (value(make(layer), features, present) for layer in (0, 1, 2))
    assert not np.allclose(early[-1], middle[-1]) and not np.allclose(middle[-1], late[-1])
    single = {n: present[n] if n == "image" else present[n] & False for n in NAMES}
    alone = value(make(2), features, single)
    others = [
        value(make(2), features, {n: present[n] if n == m else present[n] & False for n in NAMES})
        for m in NAMES
    ]
    assert_close(late[-1], sum(other[-1] for other in others) / M, 1e-6)
    assert_close(alone[0], jnp.zeros(WIDTH), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fusion.Weighted({"a": -1.0}), "zero or more"),
        (lambda: fusion.Weighted({"a": 0.0, "b": 1.0}, learned=True), "above zero"),
        (lambda: fusion.FiLM(("a", "b"), 4, main="c", rngs=nnx.Rngs(0)), "main='c'"),
        (lambda: fusion.Concatenation(("a", "a"), 4, rngs=nnx.Rngs(0)), "names that differ"),
        (lambda: fusion.Recurrent(("a",), 4, rngs=nnx.Rngs(0)), "two or more"),
        (lambda: fusion.StackedConvolution(("a",), 4, rngs=nnx.Rngs(0)), "two or more"),
        (lambda: fusion.LowRankTensor(("a", "b"), 4, rank=0, rngs=nnx.Rngs(0)), "rank=0"),
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
