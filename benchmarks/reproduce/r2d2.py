"""R2-D2 on Omniglot, with the small net of its code.

Bertinetto et al. 2019, arXiv 1805.08136; code github.com/bertinetto/r2d2. The figures were not read
in the paper. They are those of its large net, with 96 to 512 filters; the small one has 64.

What the paper and its code disagree on:

- The paper learns λ and the scale and shift of the answers. The code fixes λ = 50 for inputs that
  are divided by √n, which is 50 n without the division. Here all three are learned, from λ = 1.
- The code draws 1 to 9 shots anew for each episode of 10 images a class. Here a training has the
  shots of its columns, and 5 queries.
- The code stops by validation, when 300 epochs of 100 episodes brought no gain. Here the number is
  fixed. In both, the step size is halved every 2 000 episodes.
- Its norms have running statistics in the test. Here the same net is tested with the statistics of
  the queries, as it was trained (transductive), and with those of the support set (inductive).
- A test has 10 000 tasks and all images that are left; here 1 000 with 5 queries of each class.

METAJAX_DATA=folder python benchmarks/reproduce/r2d2.py
METAJAX_DATA=folder python benchmarks/reproduce/r2d2.py --rows 1-shot --fraction 0.05
"""

import cards
import jax
import jax.numpy as jnp
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Bertinetto et al. 2019"
ONE_SHOT = cards.OMNIGLOT | {
    "ways": 60,
    "shots": 1,
    "queries": 5,
    "outer_rate": 5e-3,
    "decay": {"factor": 0.5, "every": 2_000},
    "tasks": 1,
    "iterations": 12_000,
}


class SmallNet(nnx.Module):
    """Four blocks of convolution, norm, max-pool and leaky ReLU; features of the last two.

    The last block of the code has a pooling of stride 1, and this one none, so that images of 28
    pixels have 3x3 places in each of the last two blocks.
    """

    def __init__(self, width, *, rngs):
        inputs = [1, width, width, width]
        self.convolutions = nnx.List([mj.nets.Conv(c, width, rngs=rngs) for c in inputs])
        self.norms = nnx.List([mj.nets.TaskNorm(width, rngs=rngs) for _ in inputs])

    def __call__(self, x, reference=None):
        """[n, 28, 28, 1] -> [n, 2 * 9 * width]."""
        blocks = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pool = mj.nets.max_pool if len(blocks) < 3 else None
            x = jax.nn.leaky_relu(norm(convolution(x), reference, pool=pool), 0.1)
            blocks.append(x.reshape(len(x), -1))
        return jnp.concatenate(blocks[-2:], axis=1)


def learner(protocol):
    """Ridge regression on the features, with learned λ, scale and shift."""
    net = SmallNet(protocol["width"], rngs=nnx.Rngs(protocol["seed"]))
    return algorithms.r2d2(net, protocol["ways"], inductive=protocol["inductive"])


def row(shots, five_way, twenty_way):
    """A training and its columns, each transductive and inductive."""
    columns = {}
    for inductive in (False, True):
        for ways, published in ((5, five_way), (20, twenty_way)):
            title = f"{ways}-way {shots}-shot" + (", inductive" if inductive else "")
            columns[title] = cards.column(
                published, tests=1000, unverified=True, ways=ways, inductive=inductive
            )
    return cards.Row(ONE_SHOT | {"shots": shots}, learner, columns)


ROWS = {"1-shot": row(1, 98.91, 96.24), "5-shot": row(5, 99.74, 99.20)}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "r2d2", ROWS)
