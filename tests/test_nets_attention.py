import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import draw, quick
from flax import nnx
from problems import assert_close

from metajax import nets
from metajax.nets.attention import Block

RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.normal(size=(2, 3, 4)))
CONTEXT = jnp.asarray(RNG.normal(size=(2, 5, 4)))
ORDER = jnp.array([3, 1, 4, 0, 2])


def test_attention_is_softmax_in_numpy():
    apply, params = draw(lambda rngs: nets.Attention(4, 2, rngs=rngs))
    valid = np.array([[True, False, True, True, False], [False] * 5])
    kernel = {name: np.asarray(layer["kernel"]) for name, layer in params.fast.items()}
    queries, tokens = np.asarray(TOKENS), np.asarray(CONTEXT)
    expected = np.zeros((2, 3, 4))
    for head in (slice(0, 2), slice(2, 4)):
        for query in range(3):
            q = (queries[0, query] @ kernel["query"])[head]
            read = tokens[0, valid[0]]
            weight = np.exp((read @ kernel["key"])[:, head] @ q / np.sqrt(2))
            expected[0, query, head] = weight / weight.sum() @ (read @ kernel["value"])[:, head]
    attend = quick(apply)
    spoiled = jnp.where(valid[..., None], CONTEXT, jnp.nan)
    output = attend(params, TOKENS, tokens=spoiled, valid=jnp.asarray(valid))
    np.testing.assert_allclose(output, expected @ kernel["output"], rtol=1e-6, atol=1e-7)
    everything = attend(params, TOKENS, tokens=CONTEXT, valid=jnp.ones((2, 5), bool))
    np.testing.assert_allclose(attend(params, TOKENS, tokens=CONTEXT), everything, rtol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads=3 must divide width=4"):
        nets.Attention(4, 3, rngs=nnx.Rngs(0))


def test_masked_tokens_reach_no_output_or_gradient_of_a_block():
    apply, params = draw(lambda rngs: Block(4, 2, rngs=rngs))
    valid = jnp.array([[True, True, False, False, True], [False] * 5])

    def loss(params, tokens, context, valid):
        output = apply(params, tokens, valid=valid, context=context)
        return (output**2).sum(), output

    run = quick(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    spoiled = jnp.where(valid[..., None], CONTEXT, jnp.nan)
    clean = run(params, TOKENS, CONTEXT, valid)
    assert_close(run(params, TOKENS, spoiled, valid), clean)
    read = CONTEXT[:1, jnp.array([0, 1, 4])]
    alone = quick(apply)(params, TOKENS[:1], context=read)
    assert_close(clean[1][:1], alone)


def test_a_transformer_knows_order_by_positions_only():
    apply, params = draw(lambda rngs: nets.Transformer(4, 1, 2, rngs=rngs))
    transformer = quick(apply)
    output = transformer(params, CONTEXT)
    assert_close(output[:, ORDER], transformer(params, CONTEXT[:, ORDER]))
    angles = [7 / 10000 ** (i / 3) for i in range(3)]
    expected = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    np.testing.assert_allclose(nets.positions(50, 6)[7], expected)
