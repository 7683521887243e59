"""MAML in torch.func, higher and torchopt, each as its own documentation writes it: what metajax is timed against.

A peer is a function (workload, **variant) -> (step, gradient): a step of training with Adam, and the meta-gradient as
{name: array} at the start. `variants` are the ways to run it, of which the fastest counts.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=False)

    def forward(self, x):
        return functional.relu(functional.max_pool2d(self.norm(self.convolution(x)), 2))


def make_net(weights):
    """The module, and its parameters' names in the order of `weights`."""
    shapes = {name: value.shape for name, value in weights.items()}
    if "layers/0/kernel" in weights:
        sizes = [shapes["layers/0/kernel"], shapes["layers/1/kernel"], shapes["head/kernel"]]
        first, second, head = (nn.Linear(*size) for size in sizes)
        net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), head)
        parts = {"layers/0": first, "layers/1": second, "head": head}
    else:
        blocks = [Block(*shapes[f"convolutions/{i}/kernel"][2:]) for i in range(4)]
        net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(*shapes["head/kernel"]))
        parts = {"head": net[-1]}
        for i, block in enumerate(blocks):
            parts |= {f"convolutions/{i}": block.convolution, f"norms/{i}": block.norm}
    net.to(torch.tensor(weights["head/bias"]).dtype)
    leaves = {"kernel": "weight", "scale": "weight", "shift": "bias", "bias": "bias"}
    own = {
        name: getattr(parts[part], leaves[leaf])
        for name in weights
        for part, _, leaf in [name.rpartition("/")]
    }
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(to_torch(name, value, shapes))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return net, {name: names[id(parameter)] for name, parameter in own.items()}


def to_torch(name, value, shapes):
    """Kernels [in, out] and [height, width, in, out] as torch has them; the head reads [channels, height, width]."""
    value = torch.tensor(value)
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if name == "head/kernel" and "convolutions/3/kernel" in shapes:
        channels = shapes["convolutions/3/kernel"][3]
        side = math.isqrt(len(value) // channels)
        value = value.reshape(side, side, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return value.T if value.ndim == 2 else value


def from_torch(name, value, shapes):
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0).numpy()
    if name == "head/kernel" and "convolutions/3/kernel" in shapes:
        channels = shapes["convolutions/3/kernel"][3]
        side = math.isqrt(value.shape[1] // channels)
        return value.T.reshape(channels, side, side, -1).permute(1, 2, 0, 3).flatten(0, 2).numpy()
    return (value.T if value.ndim == 2 else value).numpy()


def prepare(workload, threads, channels_last):
    """Net, names, loss and (support, query) batches with tasks first."""
    torch.set_num_threads(threads)
    net, order = make_net(workload.weights)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    parts = []
    for name in ("support", "query"):
        x, y = (torch.tensor(value) for value in workload.data[name])
        if x.ndim == 5:
            rows = x.flatten(0, 1).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            x, y = rows.unflatten(0, x.shape[:2]), y.long()
        parts.append((x, y))
    if channels_last:
        net = net.to(memory_format=layout)
    loss = functional.cross_entropy if parts[0][1].dtype == torch.int64 else functional.mse_loss
    return net, order, loss, parts


def finish(workload, net, order, meta_backward):
    """`meta_backward()` leaves the mean meta-gradient in the net's parameters."""
    outer = torch.optim.Adam(net.parameters(), lr=workload.outer_rate)
    shapes = {name: value.shape for name, value in workload.weights.items()}

    def step():
        outer.zero_grad()
        meta_backward()
        outer.step()

    def gradient():
        outer.zero_grad()
        meta_backward()
        slopes = {name: p.grad for name, p in net.named_parameters()}
        return {name: from_torch(name, slopes[own], shapes) for name, own in order.items()}

    return step, gradient


def torch_func(workload, *, tasks, threads, channels_last):
    """https://docs.pytorch.org/tutorials/: grad and functional_call inside; the outer gradient is autograd's."""
    net, order, loss, (support, query) = prepare(workload, threads, channels_last)
    start = dict(net.named_parameters())

    def value(weights, x, y):
        return loss(torch.func.functional_call(net, weights, (x,)), y)

    def task_loss(support_x, support_y, query_x, query_y, weights):
        for _ in range(workload.steps):
            slopes = torch.func.grad(value)(weights, support_x, support_y)
            weights = {
                name: leaf - workload.inner_rate * slopes[name] for name, leaf in weights.items()
            }
        return value(weights, query_x, query_y)

    def meta_backward():
        if tasks == "vmap":
            torch.func.vmap(task_loss, (0, 0, 0, 0, None))(
                *support, *query, start
            ).mean().backward()
        else:
            for task in zip(*support, *query, strict=True):
                (task_loss(*task, start) / workload.tasks).backward()

    return finish(workload, net, order, meta_backward)


def higher(workload, *, threads, channels_last):
    """https://github.com/facebookresearch/higher, "innerloop_ctx": one task after the other, gradients add up."""
    import higher as package

    net, order, loss, (support, query) = prepare(workload, threads, channels_last)
    inner = torch.optim.SGD(net.parameters(), lr=workload.inner_rate)

    def meta_backward():
        for support_x, support_y, query_x, query_y in zip(*support, *query, strict=True):
            with package.innerloop_ctx(net, inner, copy_initial_weights=False) as (
                patched,
                differentiable,
            ):
                for _ in range(workload.steps):
                    differentiable.step(loss(patched(support_x), support_y))
                (loss(patched(query_x), query_y) / workload.tasks).backward()

    return finish(workload, net, order, meta_backward)


def torchopt(workload, *, threads, channels_last):
    """https://torchopt.readthedocs.io, "MetaSGD": the module is moved in place, and put back for the next task."""
    import torchopt as package

    net, order, loss, (support, query) = prepare(workload, threads, channels_last)

    def meta_backward():
        optimizer = package.MetaSGD(net, lr=workload.inner_rate)
        net_state = package.extract_state_dict(net, by="reference", detach_buffers=True)
        optimizer_state = package.extract_state_dict(optimizer, by="reference")
        for support_x, support_y, query_x, query_y in zip(*support, *query, strict=True):
            for _ in range(workload.steps):
                optimizer.step(loss(net(support_x), support_y))
            (loss(net(query_x), query_y) / workload.tasks).backward()
            package.recover_state_dict(net, net_state)
            package.recover_state_dict(optimizer, optimizer_state)

    return finish(workload, net, order, meta_backward)


def variants(peer, workload):
    """The ways to run a peer: layouts where there are images, and for torch.func both ways to go over the tasks."""
    layouts = (False, True) if workload.data["query"][0].ndim == 5 else (False,)
    ways = [{"threads": threads, "channels_last": last} for threads in (2, 1) for last in layouts]
    return (
        [{"tasks": tasks} | way for tasks in ("loop", "vmap") for way in ways]
        if peer == "torch.func"
        else ways
    )


PEERS = {"torch.func": torch_func, "higher": higher, "torchopt": torchopt}
