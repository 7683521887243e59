"""The price list of the strategies."""

import jax
import jax.numpy as jnp
import optax
from test_strategies import ridge_loss, ridge_problem

import metajax as mj


def test_costs_count_products_by_the_length_of_loops():
    """Descent on |Xθ - y|²: the gradient is two products, so that K steps are 4nd of 2 FLOP each, for every task."""
    params, task = ridge_problem()
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), task)
    make = lambda steps: (
        lambda s: mj.query_loss(
            mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=steps, differentiate=s), ridge_loss
        )
    )
    strategies = {"first": mj.first_order(), "all": mj.unroll(), "again": mj.unroll(remat=1)}
    short, long = (mj.estimate_cost(make(steps), strategies, params, tasks) for steps in (10, 110))
    step = 2 * 3 * 12 * 4  # FLOP of one product of X and θ for three tasks
    assert long["first"].flops - short["first"].flops == 100 * 2 * step
    assert long["again"].flops >= long["all"].flops > long["first"].flops
    assert long["all"].temporary_bytes > short["all"].temporary_bytes
    assert short["all"].run_seconds is None
    solves = {"none": mj.implicit(mj.neumann(terms=0, rate=0.1)), "cg": mj.implicit()}
    found = mj.estimate_cost(make(2), solves, params, tasks)
    assert found["cg"].flops > found["none"].flops  # one round at the least
    timed = mj.estimate_cost(
        make(2), {"all": mj.unroll(), "first": mj.first_order()}, params, tasks, repeats=2
    )
    assert timed["all"].run_seconds > 0 and timed["all"].compile_seconds > 0
    assert timed["all"].bias == 0 and timed["first"].bias > 0.01
    table = mj.cost_table({**short, "timed": timed["all"]})
    assert table.count("\n") == 5 and "| first |" in table
