import jax
import jax.numpy as jnp
import numpy as np
from encoders import SERIES, draw, quick
from problems import assert_close

from metajax import nets


def test_a_set_is_the_mean_of_its_items_between_two_nets():
    apply, params = draw(lambda rngs: nets.DeepSets(2, 3, width=4, rngs=rngs))
    weights = jax.tree.map(np.asarray, params.fast)

    def layers(of, x):
        for layer in (of[0], of[1]):
            x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
        return x

    items = layers(weights["items"], np.asarray(SERIES.value[1, :3]))
    expected = layers(weights["sets"], items.mean(0))
    expected = expected @ weights["head"]["kernel"] + weights["head"]["bias"]
    assert_close(quick(apply)(params, SERIES)[1], jnp.asarray(expected))
