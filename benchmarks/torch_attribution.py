"""The derivative behind `diagnostics.attribute` in PyTorch, written as its users write it.

`build` makes the job of benchmarks/attribution.py: a net with one hidden layer, Adam on given
minibatches, and the derivative of each query loss by the weight of every example. All steps are
kept for the backward pass, as a recorded training is in PyTorch.
"""

import harness
import torch
from torch import nn

BETAS, EPS = (0.9, 0.999), 1e-8


def build(job, way):
    """The run, and its result with the largest resident memory of this process in bytes.

    Args:
        job: {x, y, rows, rates, eps_root, start, queries}, all NumPy; `rows` is [steps, batch],
            `start` is [kernel, bias, kernel, bias], and `queries` is (x, y).
        way: "torch.func" (all queries side by side) or "torch.autograd" (one after the other).
    """
    as_tensors = {name: torch.tensor(job[name]) for name in ("x", "rows", "rates")}
    x, rows, rates = as_tensors.values()
    y = torch.tensor(job["y"]).long()
    query_x, query_y = torch.tensor(job["queries"][0]), torch.tensor(job["queries"][1]).long()
    start = [torch.tensor(leaf) for leaf in job["start"]]
    gelu = nn.GELU(approximate="tanh")

    def loss(params, x, y, weight):
        first, first_bias, last, last_bias = params
        logits = gelu(x @ first + first_bias) @ last + last_bias
        values = nn.functional.cross_entropy(logits, y, reduction="none")
        return (weight * values).sum() / weight.sum()

    def slope_by_func(params, *batch):
        return torch.func.grad(loss)(params, *batch)

    def slope_by_autograd(params, *batch):
        return torch.autograd.grad(loss(params, *batch), params, create_graph=True)

    slope = slope_by_func if way == "torch.func" else slope_by_autograd

    def train(weight):
        params = [leaf.requires_grad_() for leaf in start] if way != "torch.func" else start
        means = [torch.zeros_like(leaf) for leaf in params]
        squares = [torch.zeros_like(leaf) for leaf in params]
        for step, chosen in enumerate(rows):
            gradients = slope(params, x[chosen], y[chosen], weight[chosen])
            updated = []
            for index, gradient in enumerate(gradients):
                means[index] = BETAS[0] * means[index] + (1 - BETAS[0]) * gradient
                squares[index] = BETAS[1] * squares[index] + (1 - BETAS[1]) * gradient**2
                mean = means[index] / (1 - BETAS[0] ** (step + 1))
                square = squares[index] / (1 - BETAS[1] ** (step + 1))
                scaled = mean / ((square + job["eps_root"]).sqrt() + EPS)
                updated.append(params[index] - rates[step] * scaled)
            params = updated
        return params

    def query_loss(params, index):
        one = slice(index, index + 1)
        return loss(params, query_x[one], query_y[one], torch.ones(1, dtype=x.dtype))

    def run():
        weight = torch.ones(len(y), dtype=x.dtype)
        if way == "torch.func":
            trained, pull = torch.func.vjp(train, weight)
            slopes = [
                torch.func.grad(lambda params, index=index: query_loss(params, index))(trained)
                for index in range(len(query_y))
            ]
            stacked = [torch.stack(leaves) for leaves in zip(*slopes, strict=True)]
            return torch.func.vmap(lambda slope: pull(slope)[0])(stacked).numpy()
        weight.requires_grad_()
        trained = train(weight)
        found = [
            torch.autograd.grad(query_loss(trained, index), weight, retain_graph=True)[0]
            for index in range(len(query_y))
        ]
        return torch.stack(found).numpy()

    found = run()
    return run, (found, harness.peak_resident())
