import jax
import jax.numpy as jnp
import numpy as np
from encoders import draw

from metajax import nets


def test_mlp_has_the_layers_of_the_sinusoid_net_of_maml():
    apply, params = draw(lambda rngs: nets.MLP(1, (40, 40), 1, rngs=rngs))
    assert jax.eval_shape(apply, params, jnp.ones((7, 1))).shape == (7, 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1761


def test_mlp_is_matrix_algebra():
    apply, params = draw(lambda rngs: nets.MLP(2, (3,), 4, rngs=rngs))
    x = np.random.default_rng(0).normal(size=(5, 2))
    layer, head = jax.tree.map(np.asarray, (params.fast["layers"][0], params.fast["head"]))
    hidden = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(apply(params, jnp.asarray(x), method="embed"), hidden)
    expected = hidden @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(apply(params, jnp.asarray(x)), expected)
