"""How fast weights are rewritten after reading a support set: adaptations and learned rules."""

from metajax.inner.amortised import amortize as amortize
from metajax.inner.chains import chain as chain
from metajax.inner.chains import identity as identity
from metajax.inner.closed_form import linear_head as linear_head
from metajax.inner.closed_form import nearest_mean_head as nearest_mean_head
from metajax.inner.closed_form import prototypes as prototypes
from metajax.inner.closed_form import ridge as ridge
from metajax.inner.closed_form import write_head as write_head
from metajax.inner.descent import inner_loop as inner_loop
from metajax.inner.film_layers import FiLM as FiLM
from metajax.inner.film_layers import film as film
from metajax.inner.film_layers import modulate as modulate
from metajax.inner.film_layers import modulated as modulated
from metajax.inner.learned_optimizers import learned_optimizer as learned_optimizer
from metajax.inner.rows import minibatch as minibatch
from metajax.inner.rows import take as take
from metajax.inner.rules import Rule as Rule
from metajax.inner.rules import leaf_rates as leaf_rates
from metajax.inner.rules import learned as learned
from metajax.inner.rules import learned_rates as learned_rates
from metajax.inner.rules import shared_rate as shared_rate
