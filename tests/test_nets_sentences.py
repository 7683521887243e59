import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import OUTPUTS, RNG, TEXT, quick, shape_of
from flax import nnx
from problems import assert_close

from metajax import nets
from metajax.nets.sentences import PostNormBlock

WIDTH = 4


def make(rngs):
    return nets.SentenceEncoder(7, OUTPUTS, width=WIDTH, layers=1, heads=2, longest=6, rngs=rngs)


@pytest.fixture(scope="module")
def small():
    """(apply, params, compiled apply) with random weights everywhere, biases and norms as well."""
    apply, shapes = shape_of(make)
    params = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), shapes)
    return apply, params, quick(apply, static_argnames="method")


def test_shapes_unit_length_and_jit(small):
    _, params, run = small
    features, answer = run(params, TEXT, method="embed"), run(params, TEXT)
    assert features.shape == (3, WIDTH) and answer.shape == (3, OUTPUTS)
    np.testing.assert_allclose((features**2).sum(1), [1, 1, 0], rtol=1e-9)
    head = params.fast["head"]
    assert_close(answer, features @ head["kernel"] + head["bias"][None])
    tokens, valid = run(params, TEXT, method="tokens")
    assert tokens.shape == (3, 4, OUTPUTS) and valid.tolist() == (TEXT > 0).tolist()


def test_padding_is_inert(small):
    _, params, run = small
    longer = jnp.pad(TEXT, [(0, 0), (0, 2)])
    spoiled = params._replace(fast=params.fast | {"words": params.fast["words"].at[0].set(jnp.nan)})
    assert_close(run(spoiled, longer, method="embed"), run(params, TEXT, method="embed"))
    shorter = run(params, TEXT[1:2, :2], method="embed")
    assert_close(run(params, longer, method="embed")[1:2], shorter)


def test_an_id_out_of_range_gives_nan(small):
    _, params, run = small
    assert jnp.isnan(run(params, TEXT.at[0, 0].set(7))).any(1).tolist() == [True, False, False]


def test_every_parameter_that_counts_receives_gradient(small):
    apply, params, _ = small
    way = jnp.asarray(RNG.normal(size=(3, OUTPUTS)))
    gradient = quick(jax.grad(lambda params: (apply(params, TEXT) * way).sum()))(params).fast
    words = np.abs(gradient.pop("words")).max(1) > 1e-9
    places = np.abs(gradient.pop("places")).max(1) > 1e-9
    assert words.tolist() == [False] + [True] * 6, "all words but the padding"
    assert places.tolist() == [True] * 4 + [False] * 2, "all places that a text reaches"
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-9, jax.tree_util.keystr(path)


def test_a_block_is_what_bert_publishes():
    """Also with biases of keys and values: the first cancels, the second is one of the output."""
    draw = lambda *shape: (RNG.normal(size=shape), RNG.normal(size=shape[1]))
    query, key, value, output = (draw(WIDTH, WIDTH) for _ in range(4))
    hidden, last = draw(WIDTH, 4 * WIDTH), draw(4 * WIDTH, WIDTH)
    norms = [(RNG.normal(size=WIDTH), RNG.normal(size=WIDTH)) for _ in range(2)]
    x = RNG.normal(size=(3, WIDTH))
    linear = lambda x, layer: x @ layer[0] + layer[1]
    q, k, v = (linear(x, layer) for layer in (query, key, value))
    read = np.zeros((3, WIDTH))
    for head in (slice(0, 2), slice(2, 4)):
        weight = np.exp(q[:, head] @ k[:, head].T / np.sqrt(2))
        read[:, head] = weight / weight.sum(1, keepdims=True) @ v[:, head]

    def norm(x, layer):
        centred = x - x.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-12) * layer[0] + layer[1]

    expected = norm(x + linear(read, output), norms[0])
    inner = linear(expected, hidden)
    inner = np.asarray(inner * jax.scipy.stats.norm.cdf(inner))
    expected = norm(expected + linear(inner, last), norms[1])

    apply, params = shape_of(lambda rngs: PostNormBlock(WIDTH, 2, rngs=rngs))
    both = lambda layer, names=("kernel", "bias"): dict(
        zip(names, map(jnp.asarray, layer), strict=True)
    )
    attention = {"query": both(query), "key": {"kernel": key[0]}, "value": {"kernel": value[0]}}
    attention["output"] = both((output[0], output[1] + value[1] @ output[0]))
    fast = {"attention": attention, "hidden": both(hidden), "output": both(last)}
    for name, layer in zip(("after_attention", "after_hidden"), norms, strict=True):
        fast[name] = both(layer, ("scale", "bias"))
    assert jax.tree.structure(fast) == jax.tree.structure(params.fast)
    valid = jnp.ones((1, 3), bool)
    found = quick(apply)(params._replace(fast=fast), jnp.asarray(x)[None], valid=valid)
    assert_close(found[0], expected, 1e-9)


def test_texts_that_do_not_fit_are_refused():
    read = lambda x: jax.eval_shape(lambda: make(nnx.Rngs(0))(x))
    with pytest.raises(ValueError, match="must be token ids"):
        read(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="Texts of 7 tokens are longer than longest=6"):
        read(np.ones((2, 7), np.int32))
