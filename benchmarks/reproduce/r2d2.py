"""R2-D2 on Omniglot, with its small net.

Bertinetto et al. 2019, arXiv 1805.08136; code github.com/bertinetto/r2d2. The figures of the large
net are quoted by others; those of the small net, with 64 filters, are from memory: look them up
before you cite them.

What the paper and its code disagree on:

- The paper learns λ and the scale and shift of the answers; the code fixes λ = 50 for inputs that
  are divided by √n, which is 50 n without the division. Here all three are learned, from λ = 1.
- The code draws 1 to 9 shots anew for each episode of 10 images a class; here a training has the
  shots of its column.
- The code stops by validation, after at least 300 epochs of 100 episodes without a gain. Here the
  number is fixed, and the step size is halved 5 times, as after 10 000 of its episodes.
- Its norms have running statistics in the test; here the first columns are transductive, and those
  that say so inductive, as in protonets.py.

METAJAX_DATA=folder python benchmarks/reproduce/r2d2.py
METAJAX_DATA=folder python benchmarks/reproduce/r2d2.py --rows 1-shot --fraction 0.05
"""

import cards
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Bertinetto et al. 2019"
ONE_SHOT = {
    "split_seed": 0,
    "rotations": ["train", "validation", "test"],
    "net": "4 blocks: convolution, norm, max-pool, leaky ReLU; features of the last two blocks",
    "width": 64,
    "loss": "cross-entropy, mean over queries",
    "head": "ridge regression, learned λ from 1",
    "ways": 60,
    "shots": 1,
    "queries": 5,
    "inductive": False,
    "outer": "Adam",
    "outer_rate": 5e-3,
    "halved_every": 2_000,
    "tasks": 1,
    "iterations": 12_000,
}
FIVE_SHOT = ONE_SHOT | {"shots": 5}


class SmallNet(nnx.Module):
    """The net of the paper with as many filters in every block.

    Images of 28 pixels have 14, 7, 3 and 3 places a side after the blocks: the last pooling has
    stride 1 in the code, and none here, so that each of the last two blocks has 3x3 places.
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


def learner(protocol, column):
    """The learner of the training, or of a column with its own ways and statistics."""
    net = SmallNet(protocol["width"], rngs=nnx.Rngs(protocol["seed"]))
    ways = protocol["ways"] if column is None else column.ways
    inductive = protocol["inductive"] if column is None else column.inductive
    return algorithms.r2d2(net, ways, inductive=inductive)


def halved(protocol, steps):
    """Adam whose step size is halved; of a fraction of the steps, as often as of all."""
    every = protocol["halved_every"] * steps / protocol["iterations"]
    return optax.adam(
        optax.exponential_decay(protocol["outer_rate"], max(1, every), 0.5, staircase=True)
    )


def row(protocol, columns):
    """A row of this card."""
    return cards.Row(protocol, cards.omniglot, mj.data.episodes, learner, halved, columns)


def columns(shots, five_way, twenty_way):
    """Both columns of a training, each transductive and inductive."""
    found = {}
    for inductive in (False, True):
        for ways, published in ((5, five_way), (20, twenty_way)):
            name = f"{ways}-way {shots}-shot" + (", inductive" if inductive else "")
            found[name] = cards.Column(
                published, ways=ways, shots=shots, queries=5, tests=1000, inductive=inductive
            )
    return found


ROWS = {
    "1-shot": row(ONE_SHOT, columns(1, 98.55, 94.7)),
    "5-shot": row(FIVE_SHOT, columns(5, 99.67, 98.91)),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "r2d2", ROWS)
