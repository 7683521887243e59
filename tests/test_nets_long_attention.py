"""Attention in chunks is attention, with all derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metajax as mj

N, QUERIES, TOKENS, HEADS, WIDTH = 2, 5, 7, 2, 3


def dense(query, key, value, valid=None):
    scores = jnp.einsum("nqhd,nthd->nhqt", query, key) / WIDTH**0.5
    if valid is not None:
        scores = jnp.where(valid[:, None, None], scores, -1e30)
    return jnp.einsum("nhqt,nthd->nqhd", jax.nn.softmax(scores), value)


def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (QUERIES, TOKENS, TOKENS)
    return [
        jax.random.normal(key, (N, size, HEADS, WIDTH), jnp.float64)
        for key, size in zip(keys, sizes, strict=True)
    ]


VALID = np.arange(TOKENS) < np.array([[3], [TOKENS]])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "some"])
def test_chunks_are_attention_to_second_derivatives(chunk, valid):
    inputs = arrays()
    direction = [part[::-1] for part in inputs]

    def both(attend):
        value = lambda *inputs: jnp.sin(attend(*inputs, valid)).sum()
        gradient = jax.grad(value, (0, 1, 2))
        product = lambda *inputs: sum(
            (one * other).sum() for one, other in zip(gradient(*inputs), direction, strict=True)
        )
        forward = jax.jvp(gradient, tuple(inputs), tuple(direction))[1]
        return (
            attend(*inputs, valid),
            gradient(*inputs),
            jax.grad(product, (0, 1, 2))(*inputs),
            forward,
        )

    chunked = lambda *inputs: mj.nets.chunked_attention(*inputs, chunk=chunk)
    found, expected = jax.jit(lambda: (both(chunked), both(dense)))()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def make_net():
    net = mj.nets.Transformer(8, 1, 2, rngs=nnx.Rngs(0))
    apply, params = mj.nets.functional(net)
    return apply, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


@pytest.mark.parametrize("strategy", [mj.unroll(), mj.unroll(remat=1), mj.mixed_mode()])
def test_meta_gradients_through_a_long_transformer_are_those_of_a_short_one(strategy, monkeypatch):
    apply, params = make_net()
    x = jax.random.normal(jax.random.key(1), (2, 9, 8), jnp.float64)
    task = mj.Task(mj.Batch(x, ()), mj.Batch(x[:, ::-1], ()))

    def gradient():
        # Anew, for JAX remembers what a function was traced to.
        loss = lambda params, batch, key: ((apply(params, batch.x) ** 3).mean(), {})
        adaptation = mj.inner_loop(loss, optax.sgd(0.1), steps=2, differentiate=strategy)
        of_task = mj.query_loss(adaptation, loss)
        value = lambda params: of_task(params, task, jax.random.key(0))[0]
        return jax.jit(jax.value_and_grad(value))(params)

    expected = gradient()
    monkeypatch.setattr("metajax.nets.attention.LONG", 4)
    found = gradient()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_query_without_a_valid_token_gives_zero_in_long_sequences(monkeypatch):
    attention = mj.nets.Attention(8, 2, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (2, 9, 8), jnp.float32)
    valid = jnp.asarray(np.arange(9) < np.array([[0], [4]]))
    expected = attention(tokens, tokens, valid)
    monkeypatch.setattr("metajax.nets.attention.LONG", 4)
    found = attention(tokens, tokens, valid)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.any(found[0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_of_16_bits_do_not_overflow_or_stall(dtype):
    alike = jnp.zeros((1, 9000, 1, 2), dtype)
    values = jnp.full((1, 9000, 1, 2), 10.0, dtype)
    found = mj.nets.chunked_attention(alike[:, :3], alike, values)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(np.float32), 10.0, rtol=1e-2)


def test_large_scores_and_a_first_chunk_without_valid_tokens():
    queries, keys, values = arrays()
    valid = np.arange(TOKENS) >= np.array([[4], [6]])
    expected = dense(1000 * queries, keys, values, valid)
    found = mj.nets.chunked_attention(1000 * queries, keys, values, jnp.asarray(valid), chunk=2)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    with pytest.raises(ValueError, match="keys and values both"):
        mj.nets.chunked_attention(queries, keys, values[:, 1:])


def test_no_examples_and_no_tokens_give_nothing_and_zeros():
    queries, keys, values = arrays()
    none = mj.nets.chunked_attention(queries[:0], keys[:0], values[:0])
    assert none.shape == (0, QUERIES, HEADS, WIDTH)
    assert not mj.nets.chunked_attention(queries, keys[:, :0], values[:, :0]).any()


def test_memory_grows_with_the_length_and_not_its_square():
    def temporaries(length):
        inputs = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        value = lambda *inputs: mj.nets.chunked_attention(*inputs, chunk=64).sum()
        compiled = jax.jit(jax.grad(value, (0, 1, 2))).lower(*inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2048) < 2.5 * temporaries(1024)


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("long", [4, 512], ids=["in chunks", "all at once"])
def test_causal_attention_reads_a_window_of_what_came_before(window, long, monkeypatch):
    monkeypatch.setattr("metajax.nets.attention.LONG", long)
    net = mj.nets.Transformer(8, 1, 2, causal=True, window=window, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 9, 8), jnp.float32)
    outputs = jax.jacobian(net)(x)[0, :, :, 0]  # [output token, width, input token, width]
    reads = np.abs(outputs).sum(axis=(1, 3)) > 0
    behind = np.subtract.outer(np.arange(9), np.arange(9))
    np.testing.assert_array_equal(reads, (behind >= 0) & (behind < (window or 100)))


@pytest.mark.parametrize("long", [1, 512], ids=["in chunks", "all at once"])
def test_no_later_token_is_read_where_none_before_is_valid(long, monkeypatch):
    monkeypatch.setattr("metajax.nets.attention.LONG", long)
    attention = mj.nets.Attention(4, 1, causal=True, window=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 5, 4), jnp.float32)
    valid = jnp.array([[False, True, True, False, False]])
    read = lambda x: attention(x, x, valid)
    reads = np.abs(jax.jacobian(read)(x)[0, :, :, 0]).sum(axis=(1, 3)) > 0
    assert not np.triu(reads, 1).any()
    assert not np.any(read(x)[0, 0]) and not np.any(read(x)[0, 4])
    assert np.any(read(x)[0, 3])


def test_causal_chunks_are_causal_attention():
    queries, keys, values = (part[:, :QUERIES] for part in arrays())
    causal = np.tril(np.ones((QUERIES, QUERIES), bool))
    scores = jnp.einsum("nqhd,nthd->nhqt", queries, keys) / WIDTH**0.5
    share = jax.nn.softmax(jnp.where(causal, scores, -1e30))
    expected = jnp.einsum("nhqt,nthd->nqhd", share, values)
    found = mj.nets.chunked_attention(queries, keys, values, causal=True, chunk=2)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_an_order_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="window=3 needs causal=True"):
        mj.nets.Attention(8, 2, window=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="got 5 and 7"):
        mj.nets.chunked_attention(*arrays(), causal=True)
