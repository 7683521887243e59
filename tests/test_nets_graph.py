import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoders import EDGES, NODES, draw
from flax import nnx
from problems import assert_close

from metajax import nets


def test_an_edge_counts_once_and_in_both_directions():
    loops = [[0, 0], [2, 2]]  # every node has one already
    for edges in (EDGES, np.concatenate([EDGES, EDGES[:, ::-1], EDGES[:2], loops])):
        apply, params = draw(lambda rngs, e=edges: nets.GCN(e, 2, (), 3, nodes=5, rngs=rngs))
        output = apply(params, NODES)
        assert output.shape == (5, 3)
        if edges is EDGES:
            first = output
    assert_close(output, first)


REFUSED = {
    r"lead out of the nodes=3": lambda: nets.GCN(EDGES, 2, (), 3, nodes=3, rngs=nnx.Rngs(0)),
    "Edges must be int": lambda: nets.GCN(EDGES.T, 2, (), 3, nodes=5, rngs=nnx.Rngs(0)),
    "The graph has 5 nodes": lambda: nets.GCN(EDGES, 2, (), 3, nodes=5, rngs=nnx.Rngs(0))(
        jnp.zeros((4, 2))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(REFUSED[message])
