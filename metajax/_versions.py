"""The versions of JAX that metajax runs on, and a fault of jaxlib 0.10.2 that it works around."""

from __future__ import annotations

import os
import warnings

import jax
import jaxlib

SUPPORTED = "0.10.2, and 0.12 or later"

YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
YNN_RIGHT = ("", "-reduce", "individual_dot")
"""Values of the flag with which jaxlib 0.10.2 computes right numbers."""


def check_jax_version(version: str = jax.__version__) -> None:
    """Checks that this version of JAX is supported.

    Raises:
        ImportError: it is not.
    """
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers != (0, 10, 2) and numbers[:2] < (0, 12):
        raise ImportError(
            f"metajax supports JAX {SUPPORTED}; this is JAX {version}. On Python 3.12 or later: "
            "pip install --upgrade jax. On Python 3.11: pip install jax==0.10.2."
        )


def avoid_jaxlib_fault(version: str = jaxlib.__version__) -> None:
    """Makes jaxlib 0.10.2 compute right numbers on a CPU, where that is still possible.

    This jaxlib silently computes wrong values where a product with a 3x3 matrix is vmapped over
    more than 32 768 rows and then reduced (github.com/jax-ml/jax/issues/39103). A flag of XLA
    avoids it. The flag must be set before JAX starts its backend, and other versions abort on it.

    Warns:
        RuntimeWarning: the backend has already started without the flag, or the flag has a value
            that is not known to be right.
    """
    if version != "0.10.2":
        return
    flags = os.environ.get("XLA_FLAGS", "").split()
    values = [flag.removeprefix(f"{YNN_FLAG}=") for flag in flags if flag.startswith(YNN_FLAG)]
    if values and values[-1] in YNN_RIGHT:
        return
    setting = f"{YNN_FLAG}=-reduce"
    if values or _backend_has_started():
        warnings.warn(
            "jaxlib 0.10.2 computes some products with 3x3 matrices wrongly on a CPU, without an "
            f"error (jax#39103). Import metajax before the first use of JAX, or set "
            f"XLA_FLAGS={setting} for the process, or use Python 3.12 or later with a newer JAX.",
            RuntimeWarning,
            stacklevel=3,
        )
        return
    os.environ["XLA_FLAGS"] = " ".join([*flags, setting])


def _backend_has_started() -> bool:
    """Whether JAX has started its backend, after which flags have no effect.

    JAX has no public function for this. The private one is used with jaxlib 0.10.2 only.
    """
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()
