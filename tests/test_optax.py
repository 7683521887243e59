"""Every optimizer of optax, inside and outside: docs/optax.md states what is found here.

python tests/test_optax.py      writes the table of the page anew
"""

import inspect
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "optax.md"
KEY = jax.random.key(0)
EPS = {"eps_root": 1e-8}


def rated(name, **options):
    """The optimizer of this name, of optax or its contrib, with a step size."""
    make = getattr(optax, name, None) or getattr(optax.contrib, name)
    return lambda: make(0.05, **options)


OPTIMIZERS = {
    **{
        name: rated(name)
        for name in (
            "sgd", "noisy_sgd", "sign_sgd", "lion", "rprop", "adafactor", "adadelta", "adagrad",
            "adabelief", "adamax", "adamaxw", "adan", "adam", "adamw", "nadam", "nadamw", "amsgrad",
            "radam", "rmsprop", "yogi", "novograd", "fromage", "lamb", "lars", "sm3",
            "optimistic_gradient_descent", "optimistic_adam", "polyak_sgd",
            "muon", "prodigy", "momo", "cocob", "dadapt_adamw", "sophia", "ademamix", "acprop",
        )
    },
    **{
        f"{name}, eps_root": rated(name, **EPS)
        for name in ("adam", "adamw", "nadam", "nadamw", "radam", "adabelief")
    },
    "sgd, momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "clip_by_global_norm": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05)),
    "schedule_free_sgd": lambda: optax.contrib.schedule_free_sgd(0.05),
    "reduce_on_plateau": lambda: optax.chain(
        optax.sgd(0.05), optax.contrib.reduce_on_plateau(patience=1)
    ),
    "MultiSteps": lambda: optax.MultiSteps(optax.sgd(0.05), 2),
    "lookahead": lambda: optax.lookahead(optax.sgd(0.05), 2, 0.5),
    "lbfgs": lambda: optax.lbfgs(0.05),
    "lbfgs, linesearch=None": lambda: optax.lbfgs(0.05, linesearch=None),
    "backtracking line search": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)
    ),
}  # fmt: skip
STRATEGIES = {
    "`unroll()`": mj.unroll,
    "`first_order()`": mj.first_order,
    "`mixed_mode()`": mj.mixed_mode,
}
COLUMNS = [*STRATEGIES, "outside"]


def available():
    """The optimizers that the installed optax has."""
    found = {}
    for name, make in OPTIMIZERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make()
        except (AttributeError, TypeError):
            continue
        found[name] = make
    return found


def loss(params, batch, key):
    predictions = jnp.tanh(batch.x @ params.fast["w"]) @ params.fast["v"]
    return ((predictions - batch.y) ** 2).mean() + params.slow[0] * (
        params.fast["w"] ** 2
    ).sum(), {}


def problem():
    keys = jax.random.split(KEY, 4)
    fast = {"w": jax.random.normal(keys[0], (3, 2)), "v": jax.random.normal(keys[1], (2,))}
    x = jax.random.normal(keys[2], (5, 3))
    batch = mj.Batch(x, jax.random.normal(keys[3], (5,)))
    return mj.Params(fast, jnp.array([0.1])), mj.Task(batch, batch._replace(x=0.5 * x))


def query_loss_after(optimizer, strategy):
    """(params) -> the query loss after three steps, and its gradient."""
    _, task = problem()
    adaptation = mj.inner_loop(loss, optimizer, steps=3, differentiate=strategy)
    value = lambda params: mj.query_loss(adaptation, loss)(params, task, KEY)[0]
    return jax.jit(jax.value_and_grad(value))


def direction():
    """A direction in which params are moved."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), problem()[0])


def central_difference(value_and_gradient):
    """The derivative in the direction. The loss itself is the same for every strategy."""
    moved = lambda size: jax.tree.map(lambda leaf, d: leaf + size * d, problem()[0], direction())
    after, before = (value_and_gradient(moved(size))[0] for size in (1e-6, -1e-6))
    return (after - before) / 2e-6


def inside(value_and_gradient, expected):
    """Whether the meta-gradient of three steps is that of central differences."""
    _, slopes = value_and_gradient(problem()[0])
    terms = jax.tree.map(lambda slope, d: (slope * d).sum(), slopes, direction())
    found = sum(jax.tree.leaves(terms))
    if not np.isfinite(found):
        return "NaN"
    return "exact" if np.isclose(found, expected, rtol=1e-4, atol=1e-7) else "biased"


def attempt(optimizer, strategy):
    """The compiled query loss with its gradient, or None where the optimizer is refused."""
    try:
        value_and_gradient = query_loss_after(optimizer, strategy)
        value_and_gradient(problem()[0])
    except ValueError:
        return None
    return value_and_gradient


def outside(optimizer):
    """Whether outer steps with it lower the loss."""
    params, task = problem()
    tasks = jax.tree.map(lambda leaf: leaf[None], task)
    task_loss = lambda params, task, key: loss(params, task.support, key)
    try:
        outer = mj.outer_loop(task_loss, optimizer)
        state = outer.init(params)
    except ValueError:
        return "refused"
    step = jax.jit(outer.step)
    losses = []
    for _ in range(20):
        state, info = step(state, tasks, KEY)
        losses.append(float(info.loss))
    return "learns" if min(losses[1:]) < losses[0] else "does not learn"


def row(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optax's own, of deprecations
        optimizer = make()
        found = {name: attempt(optimizer, strategy()) for name, strategy in STRATEGIES.items()}
        forward = found["`first_order()`"]  # the cheapest
        expected = None if forward is None else central_difference(forward)
        cells = [
            "refused" if gradient is None else inside(gradient, expected)
            for gradient in found.values()
        ]
        return [*cells, outside(optimizer)]


def published():
    """{optimizer: cells} of the page."""
    lines = PAGE.read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {cells[0].strip("`"): cells[1:] for cells in rows[2:]}


@pytest.mark.parametrize("name", available())
def test_the_page_states_what_an_optimizer_does(name):
    assert published()[name] == row(available()[name])


def test_no_optimizer_gives_nan():
    assert "NaN" not in {cell for cells in published().values() for cell in cells}


def test_the_loss_is_handed_on():
    """`polyak_sgd` steps by loss / |gradient|², here by hand."""
    quadratic = lambda params, batch, key: ((params.fast**2).sum(), {})
    adaptation = mj.inner_loop(quadratic, optax.polyak_sgd(10.0), steps=1)
    fast = jnp.array([1.0, 2.0])
    adapted = adaptation.adapt(mj.Params(fast, {}), mj.Batch(jnp.ones(1), jnp.ones(1)), KEY)
    np.testing.assert_allclose(adapted.fast, fast - 5.0 / 20.0 * 2 * fast, rtol=1e-6)
    outer = mj.outer_loop(lambda p, task, key: ((p.slow**2).sum(), {}), optax.polyak_sgd(10.0))
    state, _ = outer.step(outer.init(mj.Params({}, fast)), jnp.ones(2), KEY)
    np.testing.assert_allclose(state.params.slow, fast - 5.0 / 20.0 * 2 * fast, rtol=1e-6)


def test_what_needs_a_line_search_is_refused_at_construction():
    for optimizer in (optax.lbfgs(), optax.lookahead(optax.sgd(0.1), 2, 0.5)):
        with pytest.raises(ValueError, match="cannot take a step of plain weights"):
            mj.inner_loop(loss, optimizer, steps=1)
        with pytest.raises(ValueError, match="cannot take a step of plain weights"):
            mj.outer_loop(loss, optimizer)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    text = PAGE.read_text()
    before = text[: text.index("| optimizer")]
    lines = ["| optimizer | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, make in available().items():
        cells = row(make)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    PAGE.write_text(inspect.cleandoc(before) + "\n\n" + "\n".join(lines) + "\n")
