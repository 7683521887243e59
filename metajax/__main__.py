"""`python -m metajax` prints what is installed and checks that it computes right numbers.

It ends with "all right" and exit code 0, or says what is wrong and ends with exit code 1.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj

LIBRARIES = ("metajax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
FOR_DEVELOPERS = {"core-test", "dev", "peers", "test"}


def main() -> int:
    """Prints versions, devices, extras and checks.

    Returns:
        The exit code: 0 if all checks pass.
    """
    print(f"Python {platform.python_version()} on {platform.platform()}")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES))
    print(f"devices: {', '.join(str(device) for device in jax.devices())}")
    for extra, missing in missing_packages().items():
        print(f"extra {extra}: {('lacks ' + ', '.join(missing)) if missing else 'installed'}")
    gradient = gradient_fault()
    print(f"meta-gradient against finite differences: {gradient or 'right'}")
    products = product_fault()
    print(f"products with 3x3 matrices on the CPU (jax#39103): {products or 'right'}")
    if gradient or products:
        print("something is wrong")
        return 1
    print("all right")
    return 0


def missing_packages() -> dict[str, list[str]]:
    """{extra: the packages of it that are not installed}, from the metadata of metajax."""
    missing: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("metajax") or []:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name is None or extra is None or extra[1] in FOR_DEVELOPERS:
            continue
        absent = missing.setdefault(extra[1], [])
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            absent.append(name[0])
    return missing


def gradient_fault() -> str:
    """What is wrong with the meta-gradient of MAML for a small net in float64, or nothing."""
    with jax.enable_x64(True):
        wide = np.random.default_rng(0).normal(size=(2, 10, 3))
        weights = {"first": 0.5 * jnp.asarray(wide[0, :3]), "second": jnp.asarray(wide[0, 3])}

        def net(params: mj.Params, x: jax.Array) -> jax.Array:
            return jnp.tanh(x @ params.fast["first"]) @ params.fast["second"]

        apply, params = mj.nets.from_function(net, mj.Params(fast=weights, slow={}))
        loss = mj.losses.squared_error(apply)
        x = jnp.asarray(wide)
        support, query = (mj.Batch(rows, rows.prod(axis=1)) for rows in x)
        found = mj.check_meta_gradient(
            mj.inner_loop(loss, optax.sgd(0.1), steps=5),
            loss,
            params,
            mj.Task(support, query),
            jax.random.key(0),
        )
    return "" if set(found.verdict.values()) == {"right"} else f"\n{found}"


def product_fault() -> str:
    """Whether the CPU has the fault of jaxlib 0.10.2 that metajax avoids, in words, or nothing."""
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:
        return ""  # JAX runs without a CPU, which alone has the fault
    index = np.arange(40_000, dtype=np.float32)
    rows = np.stack([index, 0 * index, 0 * index], axis=1)
    with jax.default_device(cpu):
        square = jax.jit(jax.vmap(lambda row: ((jnp.eye(3, dtype=row.dtype) @ row) ** 2).sum()))
        wrong = int((np.asarray(square(rows)) != index**2).sum())
    if wrong == 0:
        return ""
    return (
        f"{wrong} of {len(rows)} are WRONG; import metajax before the first use of JAX, do not "
        "change its flag in XLA_FLAGS, or use a newer JAX"
    )


if __name__ == "__main__":
    sys.exit(main())
