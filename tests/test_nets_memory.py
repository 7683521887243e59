import jax
import jax.numpy as jnp
import pytest

import metajax as mj
from metajax import nets

KEY = jax.random.key(0)
SUPPORT = mj.Batch(jnp.array([1.0, 2.0]), jnp.zeros(2, jnp.int32))
START = mj.Params({"scale": 3.0}, {}, rule="old")


def net(params, x, key=None, *, method=None, weight=None, memory=None):
    """A stand-in for a `Translator` whose memory is what it gets to remember."""
    if method == "remember":
        return params.fast["scale"] * x, weight
    return memory


@pytest.mark.parametrize("entry", ["memory", "pairs"])
def test_what_is_remembered_is_looked_up(entry):
    adaptation = nets.remember_pairs(net, entry=entry)
    recalled = nets.with_memory(net, entry=entry)
    assert recalled(START, SUPPORT.x) is None, "nothing has been written yet"
    start = adaptation.init(START, KEY)
    assert start == mj.Params({"scale": 3.0}, {}, rule=())
    adapted = adaptation.adapt(start, SUPPORT, KEY)
    assert sorted(adapted.fast) == sorted(["scale", entry])
    values, weight = recalled(adapted, SUPPORT.x, KEY, reference=None)
    assert values.tolist() == [3.0, 6.0]
    assert weight.tolist() == [1.0, 1.0]
    weighted = SUPPORT._replace(x=2 * SUPPORT.x, weight=jnp.array([1.0, 0.0]))
    values, weight = recalled(adaptation.adapt(adapted, weighted, KEY), SUPPORT.x)
    assert values.tolist() == [6.0, 12.0], "written anew"
    assert weight.tolist() == [1.0, 0.0]


def test_fast_weights_that_are_not_a_dict_are_refused():
    with pytest.raises(ValueError, match="must be a dict to write its entry 'memory', got list"):
        nets.remember_pairs(net).adapt(mj.Params([1.0], {}), SUPPORT, KEY)
