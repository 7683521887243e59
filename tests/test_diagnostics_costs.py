import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from test_differentiate_strategies import ridge_loss, ridge_problem

import metajax as mj

TASKS, ROWS, FEATURES = 3, 12, 4
PRODUCT = 2 * TASKS * ROWS * FEATURES
"""Operations of one product of X and θ, for all tasks."""


def tasks():
    _, task = ridge_problem()
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * TASKS), task)


def make(strategy, steps=2):
    """Descent on |Xθ - y|²."""
    adaptation = mj.inner_loop(ridge_loss, optax.sgd(0.1), steps=steps, differentiate=strategy)
    return mj.query_loss(adaptation, ridge_loss)


def test_operations_are_counted_by_the_length_of_loops():
    """A step of first-order descent takes two products, with X and with its transpose."""
    params, _ = ridge_problem()
    strategies = {"first": mj.first_order(), "all": mj.unroll(), "again": mj.unroll(remat=1)}
    short = mj.estimate_cost(functools.partial(make, steps=10), strategies, params, tasks())
    long = mj.estimate_cost(functools.partial(make, steps=110), strategies, params, tasks())
    assert list(long) == ["first", "all", "again"]
    assert long["first"].flops - short["first"].flops == 100 * 2 * PRODUCT
    assert long["again"].flops >= long["all"].flops > long["first"].flops
    assert long["all"].temporary_bytes > short["all"].temporary_bytes
    assert long["all"].compile_seconds > 0
    assert long["all"].run_seconds is None
    assert long["all"].bias is None


def test_operations_of_products_convolutions_and_branches_are_counted():
    """The gradient with respect to a linear map of the data is of the cost of the map."""
    x = jnp.ones((2, 5, 8, 8, 3))
    kernel = jnp.ones((3, 3, 3, 4))

    def convolve(params, images, key):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(images, params, (1, 1), "SAME", None, None, numbers)

    def convolution(params, images, key):
        return convolve(params, images, key).sum(), {}

    def in_branch(params, images, key):
        branches = [lambda: jnp.zeros((5, 8, 8, 4)), lambda: convolve(params, images, key)]
        return jax.lax.switch(jnp.int32(params.sum() > 0), branches).sum(), {}

    losses = {"convolution": convolution, "in a branch": in_branch}
    found = mj.estimate_cost(lambda loss: loss, losses, kernel, x)
    # One pass forward and one back, 2 · 3 · 3 · 3 operations for each of 4 outputs of a pixel.
    outputs = 2 * 5 * 8 * 8 * 4
    assert found["convolution"].flops >= 2 * 27 * outputs
    assert found["in a branch"].flops >= 2 * 27 * outputs


def test_a_loop_of_unknown_length_counts_as_one_round():
    params, _ = ridge_problem()
    solves = {"none": mj.implicit(mj.neumann(terms=0, rate=0.1)), "cg": mj.implicit()}
    found = mj.estimate_cost(make, solves, params, tasks())
    assert found["cg"].flops > found["none"].flops


def test_programs_are_timed_and_compared_with_the_first():
    params, _ = ridge_problem()
    strategies = {"all": mj.unroll(), "first": mj.first_order()}
    timed = mj.estimate_cost(make, strategies, params, tasks(), repeats=2)
    assert timed["all"].run_seconds > 0
    assert timed["all"].bias == 0
    assert timed["first"].bias > 0.01


def test_the_table_has_a_row_for_each_strategy():
    costs = {
        "all": mj.diagnostics.Cost(1_500_000, 2_000_000_000, 0.25, 0.031, 0.0),
        "first": mj.diagnostics.Cost(500_000, 1_000_000_000, 0.15),
    }
    lines = mj.cost_table(costs).splitlines()
    assert len(lines) == 4
    assert lines[0].count("|") == lines[1].count("|") == 7
    assert lines[2] == "| all | 1.5 | 2 | 0.2 | 0.031 | 0 |"
    assert lines[3] == "| first | 0.5 | 1 | 0.1 |  |  |"


def test_the_table_has_no_empty_columns():
    costs = {"all": mj.diagnostics.Cost(1_500_000, 2_000_000_000, 0.25)}
    assert mj.cost_table(costs).splitlines() == [
        "| strategy | temporaries, MB | GFLOP | compile, s |",
        "| --- | --- | --- | --- |",
        "| all | 1.5 | 2 | 0.2 |",
    ]
    timed = {"all": costs["all"]._replace(run_seconds=0.031)}
    assert mj.cost_table(timed).splitlines()[0].endswith("| compile, s | run, s |")


@pytest.mark.parametrize("repeats", [-1, 1.5, True])
def test_repeats_that_are_no_number_are_refused(repeats):
    params, _ = ridge_problem()
    with pytest.raises(ValueError, match=r"repeats must be a whole number.* got"):
        mj.estimate_cost(make, {"all": mj.unroll()}, params, tasks(), repeats=repeats)
