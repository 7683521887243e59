"""Adaptations one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

KEY = jax.random.key(0)
SUPPORT = mj.Batch(x=jnp.array([1.0, 2.0]), y=jnp.array([2.0, 4.0]))


def loss(params, batch, key):
    """A line through zero."""
    return ((params.fast * batch.x - batch.y) ** 2).mean(), {}


def test_a_rule_is_set_by_the_name_of_its_link():
    descent = mj.inner_loop(loss, mj.learned(optax.sgd, 0.1), steps=1)
    chained = mj.chain(nothing=mj.identity(), descent=descent)
    params = chained.init(mj.Params(fast=jnp.array(0.0), slow=()), KEY)
    assert set(params.rule) == {"nothing", "descent"}
    still = params._replace(rule={**params.rule, "descent": jnp.array(0.0)})
    assert chained.adapt(still, SUPPORT, KEY).fast == 0
    np.testing.assert_allclose(chained.adapt(params, SUPPORT, KEY).fast, 1.0)


def test_names_and_positions_give_the_same_weights():
    links = [mj.inner_loop(loss, optax.sgd(rate), steps=2) for rate in (0.1, 0.05)]
    start = mj.Params(fast=jnp.array(0.3), slow=())
    by_position = mj.chain(*links)
    by_name = mj.chain(first=links[0], second=links[1])
    ends = [
        chained.adapt(chained.init(start, KEY), SUPPORT, KEY).fast
        for chained in (by_position, by_name)
    ]
    assert ends[0] == ends[1] != 0.3


def test_errors_say_what_to_do():
    link = mj.inner_loop(loss, optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match="all by position or all by name"):
        mj.chain(link, second=link)
    start = mj.Params(fast=jnp.array(0.3), slow=())
    for chained in (mj.chain(link), mj.chain(first=link)):
        with pytest.raises(ValueError, match=r"needs a rule for each, got .*adaptation\.init"):
            chained.adapt(start, SUPPORT, KEY)
    last_only = mj.inner_loop(loss, optax.sgd(0.1), steps=1, path=True)
    with pytest.raises(ValueError, match="chain's last link"):
        mj.chain(first=last_only, second=link)
