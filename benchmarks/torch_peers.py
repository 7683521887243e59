"""MAML in torch.func, higher and torchopt, each as its own documentation writes it.

metajax is timed against these peers. A peer is a function (workload, **variant) -> (step,
gradient): a step of training with Adam, and the meta-gradient as {name: array} at the start.
`variants` are the ways to run it, and the fastest of them counts.
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


LEAVES = {"kernel": "weight", "scale": "weight", "shift": "bias", "bias": "bias"}
"""Our names of parameters, and torch's."""


def make_net(weights):
    """The module, and the names of its parameters in the order of `weights`."""
    shapes = {name: value.shape for name, value in weights.items()}
    net, parts = make_mlp(shapes) if "layers/0/kernel" in weights else make_conv4(shapes)
    net.to(torch.tensor(weights["head/bias"]).dtype)
    own = {}
    for name in weights:
        part, _, leaf = name.rpartition("/")
        own[name] = getattr(parts[part], LEAVES[leaf])
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(to_torch(name, value, shapes))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return net, {name: names[id(parameter)] for name, parameter in own.items()}


def make_mlp(shapes):
    """(module, {our name: its layer})."""
    first = nn.Linear(*shapes["layers/0/kernel"])
    second = nn.Linear(*shapes["layers/1/kernel"])
    head = nn.Linear(*shapes["head/kernel"])
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), head)
    return net, {"layers/0": first, "layers/1": second, "head": head}


def make_conv4(shapes):
    """(module, {our name: its layer})."""
    blocks = [Block(*shapes[f"convolutions/{i}/kernel"][2:]) for i in range(4)]
    head = nn.Linear(*shapes["head/kernel"])
    parts = {"head": head}
    for i, block in enumerate(blocks):
        parts[f"convolutions/{i}"] = block.convolution
        parts[f"norms/{i}"] = block.norm
    return nn.Sequential(*blocks, nn.Flatten(), head), parts


def to_torch(name, value, shapes):
    """A kernel [in, out] or [height, width, in, out] in torch's layout.

    torch's head reads [channels, height, width].
    """
    value = torch.tensor(value)
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if name == "head/kernel" and "convolutions/3/kernel" in shapes:
        channels = shapes["convolutions/3/kernel"][3]
        side = math.isqrt(len(value) // channels)
        value = value.reshape(side, side, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return value.T if value.ndim == 2 else value


def from_torch(name, value, shapes):
    """The inverse of `to_torch`."""
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0).numpy()
    if name == "head/kernel" and "convolutions/3/kernel" in shapes:
        channels = shapes["convolutions/3/kernel"][3]
        side = math.isqrt(value.shape[1] // channels)
        value = value.T.reshape(channels, side, side, -1)
        return value.permute(1, 2, 0, 3).flatten(0, 2).numpy()
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
            x = rows.unflatten(0, x.shape[:2])
            y = y.long()
        parts.append((x, y))
    if channels_last:
        net = net.to(memory_format=layout)
    labels = parts[0][1]
    loss = functional.cross_entropy if labels.dtype == torch.int64 else functional.mse_loss
    return net, order, loss, parts


def finish(workload, net, order, meta_backward):
    """(step, gradient) from `meta_backward()`, which adds the mean meta-gradient to `p.grad`."""
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
    """Uses grad and functional_call inside; the outer gradient is autograd's.

    Source: https://docs.pytorch.org/tutorials/.
    """
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

    def backward_vmap():
        losses = torch.func.vmap(task_loss, (0, 0, 0, 0, None))(*support, *query, start)
        losses.mean().backward()

    def backward_loop():
        for task in zip(*support, *query, strict=True):
            (task_loss(*task, start) / workload.tasks).backward()

    meta_backward = backward_vmap if tasks == "vmap" else backward_loop
    return finish(workload, net, order, meta_backward)


def higher(workload, *, threads, channels_last):
    """One task after the other, gradients add up.

    Source: "innerloop_ctx" in https://github.com/facebookresearch/higher.
    """
    import higher as package

    net, order, loss, (support, query) = prepare(workload, threads, channels_last)
    inner = torch.optim.SGD(net.parameters(), lr=workload.inner_rate)

    def meta_backward():
        for support_x, support_y, query_x, query_y in zip(*support, *query, strict=True):
            context = package.innerloop_ctx(net, inner, copy_initial_weights=False)
            with context as (patched, differentiable):
                for _ in range(workload.steps):
                    differentiable.step(loss(patched(support_x), support_y))
                (loss(patched(query_x), query_y) / workload.tasks).backward()

    return finish(workload, net, order, meta_backward)


def torchopt(workload, *, threads, channels_last):
    """The module is changed in place, and restored for the next task.

    Source: "MetaSGD" in https://torchopt.readthedocs.io.
    """
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
    """The ways to run a peer.

    Layouts where there are images, and for torch.func both ways to go over the tasks.
    """
    has_images = workload.data["query"][0].ndim == 5
    layouts = (False, True) if has_images else (False,)
    ways = [{"threads": threads, "channels_last": last} for threads in (2, 1) for last in layouts]
    if peer != "torch.func":
        return ways
    return [{"tasks": tasks} | way for tasks in ("loop", "vmap") for way in ways]


PEERS = {"torch.func": torch_func, "higher": higher, "torchopt": torchopt}
