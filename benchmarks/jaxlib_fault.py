"""A fault of jaxlib 0.10.2 on a CPU: silently wrong sums, and that metajax avoids it.

With jaxlib 0.10.2 a product with a 3x3 matrix is wrong where it is vmapped over more than 32 768
rows and then reduced (github.com/jax-ml/jax/issues/39103). metajax sets a flag of XLA before JAX
starts. For every row [i, 0, 0] this script compares Σ (I @ row)² with i² in NumPy, and prints how
many rows are wrong. It fails where any is.

python benchmarks/jaxlib_fault.py
python benchmarks/jaxlib_fault.py --without-metajax    # shows the fault, if this jaxlib has it
"""

import argparse
import importlib
import sys

import numpy as np

SIZES = {"float32": (20_000, 40_000), "float64": (10_000, 20_000)}
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--without-metajax", action="store_true")


def count_wrong(number, dtype):
    """The number of rows, of this many, whose sum of squares is not that of NumPy."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", dtype == "float64")
    index = np.arange(number, dtype=dtype)
    rows = np.stack([index, np.zeros_like(index), np.zeros_like(index)], axis=1)

    @jax.jit
    @jax.vmap
    def square(row):
        return jnp.sum((jnp.eye(3, dtype=dtype) @ row) ** 2)

    return int((np.asarray(square(rows)) != index**2).sum())


def main(options):
    if not options.without_metajax:
        importlib.import_module("metajax")  # before JAX starts its backend
    import jaxlib

    print(f"jaxlib {jaxlib.__version__}, {'without' * options.without_metajax or 'with'} metajax")
    wrong = 0
    for dtype, numbers in SIZES.items():
        for number in numbers:
            found = count_wrong(number, dtype)
            print(f"{dtype}, {number} rows: {found} are wrong")
            wrong += found
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(parser.parse_args())
