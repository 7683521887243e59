import jax.numpy as jnp
import numpy as np
import pytest
from encoders import draw, quick
from flax import nnx
from problems import assert_close

from metajax.nets.translation_layers import (
    END,
    OptionalAttention,
    ReadingLayer,
    aligned_from_both_ends,
    causal_mask,
    match_lengths,
    previous_characters,
)

RNG = np.random.default_rng(0)
STATES = jnp.asarray(RNG.normal(size=(2, 3, 4)))
CONTEXT = jnp.asarray(RNG.normal(size=(2, 5, 4)))


def test_matches_are_counted_along_both_strings():
    here = np.random.default_rng(0).integers(0, 3, (2, 12))
    there = np.concatenate([here[0, 3:], here[0, :10], here[1]])
    same = lambda a, b: (a == b).all() and a.all()
    found = np.asarray(match_lengths(jnp.asarray(here), jnp.asarray(there)))
    for row, t, s in np.ndindex(*found.shape):
        longest = 0
        for n in range(1, 1 + min(t + 1, s + 1, 6)):
            if same(here[row, t + 1 - n : t + 1], there[s + 1 - n : s + 1]):
                longest = n
        assert found[row, t, s] == longest
    assert found.max() == 6


def test_characters_before_and_sources_from_both_ends():
    target = jnp.array([[5, 6, END, 0], [7, END, 0, 0]])
    assert previous_characters(target).tolist() == [[END, 5, 6, 0], [END, 7, 0, 0]]
    source = jnp.array([[5, 6, 0], [7, 0, 0]])
    assert aligned_from_both_ends(source).tolist() == [[5, 6, 0, 0, 5, 6], [7, 0, 0, 0, 0, 7]]
    assert causal_mask(2).tolist() == [[[True, False], [True, True]]]


def test_a_query_may_read_nothing():
    plain, params = draw(lambda rngs: OptionalAttention(4, 2, rngs=rngs))
    apply = quick(plain)
    valid = jnp.array([[[True, True, False, True, False]], [[False] * 5]])
    read = lambda bias, context: apply(
        params, STATES, keys=context, values=context, valid=valid, bias=bias
    )
    output = read(jnp.zeros((1, 1, 1, 5)), CONTEXT)
    assert (output[1] == 0).all()
    assert abs(output[0]).max() > 1e-3
    masked = jnp.where(valid.swapaxes(1, 2), CONTEXT, 9.0)
    assert_close(read(jnp.zeros((1, 1, 1, 5)), masked), output)
    assert abs(read(jnp.full((1, 1, 1, 5), -1e6), CONTEXT)).max() == 0


def test_a_layer_reads_its_contexts_in_turn():
    layer = ReadingLayer(4, 2, reads=2, rngs=nnx.Rngs(0))
    everything = jnp.ones((1, 1, 5), bool)
    apply = quick(lambda states, x: layer(states, (None, causal_mask(3)), (x, everything)))
    output = apply(STATES, CONTEXT)
    assert output.shape == STATES.shape
    moved = apply(STATES.at[:, 2, 0].add(1.0), CONTEXT)
    assert_close(moved[:, :2], output[:, :2])
    assert abs(moved[:, 2] - output[:, 2]).max() > 1e-3
    assert abs(apply(STATES, CONTEXT.at[:, 0, 0].add(1.0)) - output).max() > 1e-6
    with pytest.raises(ValueError, match="zip"):
        layer(STATES, (None, causal_mask(3)))
