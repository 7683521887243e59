"""Meta-gradients of MAML from PyTorch, for tests/test_reference.py to compare with.

Run it by hand (`pip install 'metajax[peers]'`, then `python tests/reference/make_reference.py`); the tests read only
what it writes, maml.npz. Nothing of metajax or JAX is used: the networks are built on torch.nn.functional, and the
inner loops are three independent ones, torch.func, higher and torchopt, all differentiated to second order.

Values are float64, labels int64, and names are paths:
    mlp/weights/layers/0/kernel, mlp/support/x, mlp/query/y    what goes in, shared by the cases of a net
    mlp_adam/loss, mlp_adam/gradient/layers/0/kernel           what comes out, per case
    versions                                                   what computed it
"""

from importlib.metadata import version
from pathlib import Path

import higher
import numpy as np
import torch
import torchopt
from torch.nn import functional

TASKS, WAYS, SHOTS, QUERIES, WIDTH = 2, 3, 2, 3, 4


# What goes in. Kernels are [in, out] and [height, width, in, out], images [height, width, channels], as in metajax.

rng = np.random.default_rng(0)


def dense(name, inputs, outputs):
    kernel = rng.normal(size=(inputs, outputs)) * inputs**-0.5
    return {f"{name}/kernel": kernel, f"{name}/bias": 0.1 * rng.normal(size=outputs)}


def block(i, inputs, outputs):
    kernel = rng.normal(size=(3, 3, inputs, outputs)) * (2 / (9 * inputs)) ** 0.5
    scale, shift = 1 + 0.1 * rng.normal(size=outputs), 0.1 * rng.normal(size=outputs)
    return {
        f"convolutions/{i}/kernel": kernel,
        f"norms/{i}/scale": scale,
        f"norms/{i}/shift": shift,
    }


def examples(name, per_class, draw):
    """Noise: a gradient needs no sense in its data."""
    labels = np.tile(np.arange(WAYS), per_class)
    x = draw((TASKS, len(labels)))
    return {f"{name}/x": x, f"{name}/y": np.stack([rng.permutation(labels) for _ in range(TASKS)])}


def vectors(shape):
    return rng.normal(size=(*shape, 5))


def images(shape):
    """In sixteenths of white, which makes a small file."""
    return rng.integers(17, size=(*shape, 28, 28, 1)) / 16


WEIGHTS = {
    "mlp": dense("layers/0", 5, 8) | dense("layers/1", 8, 8) | dense("head", 8, WAYS),
    # Four poolings make 28 x 28 pixels one, so that both forms of the net have the same weights.
    "conv": block(0, 1, WIDTH)
    | block(1, WIDTH, WIDTH)
    | block(2, WIDTH, WIDTH)
    | block(3, WIDTH, WIDTH)
    | dense("head", WIDTH, WAYS),
}
DATA = {
    "mlp": examples("support", SHOTS, vectors) | examples("query", QUERIES, vectors),
    "conv": examples("support", SHOTS, images) | examples("query", QUERIES, images),
}


# The networks: (weights by name, x) -> logits.


def mlp(weights, x):
    for i in range(2):
        x = functional.relu(
            functional.linear(x, weights[f"layers/{i}/kernel"].T, weights[f"layers/{i}/bias"])
        )
    return functional.linear(x, weights["head/kernel"].T, weights["head/bias"])


def conv4(weights, x, pool):
    x = x.permute(0, 3, 1, 2)
    for i in range(4):
        # XLA's "SAME": stride 2 on an even size needs one zero in all, and puts it after.
        before = 1 if pool or x.shape[-1] % 2 else 0
        x = functional.pad(x, (before, 1, before, 1))
        x = functional.conv2d(
            x, weights[f"convolutions/{i}/kernel"].permute(3, 2, 0, 1), stride=1 if pool else 2
        )
        scale, shift = weights[f"norms/{i}/scale"], weights[f"norms/{i}/shift"]
        x = functional.batch_norm(x, None, None, scale, shift, training=True, eps=1e-5)
        x = functional.relu(functional.max_pool2d(x, 2) if pool else x)
    features = x.permute(0, 2, 3, 1).flatten(1) if pool else x.mean((2, 3))
    return functional.linear(features, weights["head/kernel"].T, weights["head/bias"])


# The inner loops: (loss, weights) -> adapted weights.


def sgd(loss, weights, steps, lr):
    for _ in range(steps):
        gradient = torch.func.grad(loss)(weights)
        weights = {name: weights[name] - lr * gradient[name] for name in weights}
    return weights


def momentum(loss, weights, steps, lr):
    names, values = list(weights), list(weights.values())
    optimizer = higher.get_diff_optim(torch.optim.SGD(values, lr=lr, momentum=0.9), values)
    for _ in range(steps):
        values = optimizer.step(loss(dict(zip(names, values, strict=True))), params=values)
    return dict(zip(names, values, strict=True))


def adam(loss, weights, steps, lr):
    optimizer = torchopt.adam(lr, eps_root=1e-8, moment_requires_grad=True)
    state = optimizer.init(weights)
    for _ in range(steps):
        gradient = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=True)
        updates, state = optimizer.update(
            dict(zip(weights, gradient, strict=True)), state, inplace=False
        )
        weights = torchopt.apply_updates(weights, updates, inplace=False)
    return weights


CASES = {  # name: (net, network, inner loop, steps, step size)
    "mlp_sgd": ("mlp", mlp, sgd, 3, 0.5),
    "mlp_momentum": ("mlp", mlp, momentum, 3, 0.2),
    "mlp_adam": ("mlp", mlp, adam, 3, 0.01),
    "conv_stride": ("conv", lambda weights, x: conv4(weights, x, pool=False), sgd, 2, 0.1),
    "conv_pool": ("conv", lambda weights, x: conv4(weights, x, pool=True), sgd, 2, 0.1),
}


def meta_loss(weights, tasks, network, adapt, steps, lr):
    """Mean over tasks of the cross-entropy on the query set, after adapting to the support set."""

    def cross_entropy(part, task):
        x, y = tasks[f"{part}/x"][task], tasks[f"{part}/y"][task]
        return lambda weights: functional.cross_entropy(network(weights, x), y)

    adapted = [adapt(cross_entropy("support", task), weights, steps, lr) for task in range(TASKS)]
    return torch.stack(
        [cross_entropy("query", task)(weights) for task, weights in enumerate(adapted)]
    ).mean()


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # torchopt computes Adam's 1 - βᵗ in the default dtype.
    result = {
        "versions": np.array(
            [f"{name} {version(name)}" for name in ("torch", "higher", "torchopt", "numpy")]
        )
    }
    for net in WEIGHTS:
        result |= {f"{net}/{name}": value for name, value in DATA[net].items()}
        result |= {f"{net}/weights/{name}": value for name, value in WEIGHTS[net].items()}
    for case, (net, *arguments) in CASES.items():
        tasks = {name: torch.tensor(value) for name, value in DATA[net].items()}
        weights = {
            name: torch.tensor(value, requires_grad=True) for name, value in WEIGHTS[net].items()
        }
        loss = meta_loss(weights, tasks, *arguments)
        gradient = torch.autograd.grad(loss, list(weights.values()))
        result[f"{case}/loss"] = loss.detach().numpy()
        result |= {
            f"{case}/gradient/{name}": leaf.numpy()
            for name, leaf in zip(weights, gradient, strict=True)
        }
    file = Path(__file__).with_name("maml.npz")
    np.savez_compressed(file, **result)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB; {', '.join(result['versions'])}")


if __name__ == "__main__":
    main()
