"""Adaptations that run one after the other, and the adaptation that does nothing."""

from __future__ import annotations

import jax

from metajax._checked import checked
from metajax.types import Adaptation, Array, Batch, Params


@checked
def identity() -> Adaptation:
    """The adaptation that changes nothing: the baseline without adaptation, and a neutral link."""
    return Adaptation(
        init=lambda params, key: params._replace(rule=()),
        adapt=lambda params, support, key: params,
    )


@checked
def chain(*links: Adaptation, **named_links: Adaptation) -> Adaptation:
    """One adaptation after the other; each starts from the fast weights that the last one left.

    `params.rule` has one entry for each link: a tuple for links by position, a dict for links by
    name. A name makes it easy to set the rule of one link:

        fine_tuning = chain(head=prototypes(embed, 5), descent=inner_loop(loss, rule, steps=5))
        params = fine_tuning.init(params, key)
        params = params._replace(rule={**params.rule, "descent": rate})

    Args:
        *links: adaptations by position.
        **named_links: adaptations by name; give all of them by name or all by position.

    Raises:
        ValueError: links both by position and by name, or a link with `path` before the last; on
            adaptation, when `params.rule` does not have one entry for each link.

    Source: Proto-MAML, Triantafillou et al. 2020, arXiv 1903.03096, is
    `chain(prototypes(embed, ways=5), inner_loop(loss, optax.sgd(0.05), steps=3))`.
    """
    if links and named_links:
        raise ValueError("Give the links of a chain all by position or all by name.")
    every_link = links or tuple(named_links.values())
    if any(link.path for link in every_link[:-1]):
        raise ValueError(
            "An inner_loop with path=True gives the fast weights of every step, so it can only be "
            "a chain's last link."
        )

    @checked
    def init(params: Params, key: Array) -> Params:
        keys = jax.random.split(key, max(len(every_link), 1))
        rules = tuple(
            link.init(params, key).rule
            for link, key in zip(every_link, keys, strict=False)  # an empty chain has a key left
        )
        rule = dict(zip(named_links, rules, strict=True)) if named_links else rules
        return params._replace(rule=rule)

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        rules = _rules_of(params, len(every_link), list(named_links))
        for number, (link, rule) in enumerate(zip(every_link, rules, strict=True)):
            link_key = jax.random.fold_in(key, number)
            adapted = link.adapt(params._replace(rule=rule), support, link_key)
            params = params._replace(fast=adapted.fast)
        return params

    return Adaptation(init, adapt, path=bool(every_link) and every_link[-1].path)


def _rules_of(params: Params, number: int, names: list[str]) -> tuple:
    """The rule of each link, in order."""
    rule = params.rule
    if names and isinstance(rule, dict) and set(rule) == set(names):
        return tuple(rule[name] for name in names)
    if not names and isinstance(rule, tuple) and len(rule) == number:
        return rule
    links = f"links {names}" if names else f"{number} links"
    raise ValueError(
        f"A chain of {links} needs a rule for each, got {rule!r}; "
        "call params = adaptation.init(params, key) first."
    )
