"""iMAML on Omniglot, 5-way 1-shot: the equation of the paper, and that of its code.

Rajeswaran et al. 2019, arXiv 1909.04630, table 2, the row with gradient descent: the code,
github.com/aravindr93/imaml_dev, has no other. Its issue 3 reports 98.2.

What the paper and its code disagree on:

- The paper descends the regularised loss, L(θ) + ½ λ |θ - θ₀|². The code takes 16 steps on L alone
  and then one step of the same size on the distance.
- The paper multiplies the query gradient by (I + H/λ)⁻¹ with λ = 2. The code solves with
  2I + H/12: a damping of 1, and 10 added to λ. Both take 5 steps of conjugate gradient.
- The test of the code has λ = 0, and so has that of its row here.
- The outer Adam of the code has ε = 1e-3.
- The test of the code shuffles the characters with another seed than the training, so that most of
  its test characters were trained on. Here none is.

What both have and this card does not: a fixed pool of 200 000 training tasks, 1200 characters to
train, and a random quarter turn of each class of a task, where here quarter turns are classes.

METAJAX_DATA=folder python benchmarks/reproduce/imaml.py --fraction 0.05
"""

import cards
import jax

import metajax as mj
from metajax import algorithms

PAPER = "Rajeswaran et al. 2019"
OF_PAPER = cards.OMNIGLOT | {
    "ways": 5,
    "shots": 1,
    "queries": 1,
    "as_in_code": False,
    "inner_rate": 0.1,
    "inner_steps": 16,
    "proximity": 2.0,
    "solver_steps": 5,
    "outer_epsilon": 1e-3,
    "tasks": 32,
    "iterations": 20_000,
}


def learner(protocol):
    """The learner by the equation of the paper, or by that of its code."""
    if protocol["as_in_code"]:
        return as_in_code(protocol)
    return algorithms.imaml(
        cards.flat_conv4(protocol),
        inner_rate=protocol["inner_rate"],
        inner_steps=protocol["inner_steps"],
        proximity=protocol["proximity"],
        solver_steps=protocol["solver_steps"],
        inductive=protocol["inductive"],
    )


def as_in_code(protocol):
    """Plain steps, one step toward the start, and a solution with 2I + H/12."""
    rate, solver_steps = protocol["inner_rate"], protocol["solver_steps"]
    kept = 1 - rate * protocol["proximity"]  # of the way from the start
    plain = algorithms.maml(
        cards.flat_conv4(protocol), inner_rate=rate, inner_steps=protocol["inner_steps"]
    )
    loss = mj.losses.cross_entropy(plain.apply)

    def adapted(start, support, key):
        found = plain.adaptation.adapt(mj.Params(start, {}), support, key).fast
        back = lambda fast, start: start + kept * (fast - start)
        return jax.tree.map(back, found, start)

    @jax.custom_vjp
    def minimum(start, support, key):
        return adapted(start, support, key)

    def forward(start, support, key):
        found = adapted(start, support, key)
        return found, (found, support, key)

    def backward(residuals, cotangent):
        found, support, key = residuals
        gradient = jax.grad(lambda fast: loss(mj.Params(fast, {}), support, key)[0])

        def matrix(v):
            hessian = jax.jvp(gradient, (found,), (v,))[1]
            return jax.tree.map(lambda v, hv: 2 * v + hv / 12, v, hessian)

        solution, _ = jax.scipy.sparse.linalg.cg(matrix, cotangent, tol=0.0, maxiter=solver_steps)
        return solution, None, None

    minimum.defvjp(forward, backward)

    def adapt(params, support, key):
        return params._replace(fast=minimum(params.fast, support, key))

    adaptation = mj.Adaptation(plain.adaptation.init, adapt)
    task_loss = mj.query_loss(adaptation, loss, inductive=protocol["inductive"])
    return mj.Learner(plain.apply, plain.params, adaptation, task_loss)


def row(protocol, **changes):
    """A row of this card."""
    columns = {"5-way 1-shot": cards.column(99.16, 0.35, **changes)}
    return cards.Row(protocol, learner, columns, tasks_at_once=4)


ROWS = {
    "paper": row(OF_PAPER),
    "code": row(OF_PAPER | {"as_in_code": True}, proximity=0.0),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "imaml", ROWS)
