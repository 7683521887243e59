"""The checks of the room state the value and the remedy."""

import jax.numpy as jnp
import pytest

import metajax as mj
from metajax.modalities.checks import check_modalities, check_rule


def test_inputs_are_named_modalities():
    check_modalities(mj.Modalities({}, {}))
    with pytest.raises(ValueError, match=r"x must be a Modalities, got ArrayImpl; data\.as_moda"):
        check_modalities(jnp.ones(2), "x")


def test_a_rule_is_initialised():
    params = mj.Params({}, {}, {"kernel": 0})
    check_rule(params, "kernel", "mine")
    for rule in ((), {}):
        with pytest.raises(ValueError, match=r"mine has no rule yet; call params = adaptation.ini"):
            check_rule(params._replace(rule=rule), "kernel", "mine")
