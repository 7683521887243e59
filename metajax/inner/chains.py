"""Adaptations one after the other, and the one that does nothing."""

from __future__ import annotations

import jax

from metajax.types import Adaptation, Array, Batch, Params


def identity() -> Adaptation:
    """The adaptation that does nothing: the unit of `chain`, and the baseline of no adaptation at all."""
    return Adaptation(
        init=lambda params, key: params._replace(rule=()), adapt=lambda params, support, key: params
    )


def chain(*links: Adaptation) -> Adaptation:
    """One adaptation after the other, each starting from the fast weights that the one before left.

    `rule` becomes a tuple with one entry for each link. Proto-MAML (Triantafillou et al. 2020, arXiv 1903.03096) is
    `chain(prototypes(embed, ways=5), inner_loop(loss, optax.sgd(0.05), steps=3))`.

    Raises:
        ValueError: a link with `path` before the last; on adaptation, when `params.rule` does not have one entry for
            each link.
    """
    if any(link.path for link in links[:-1]):
        raise ValueError(
            "An inner_loop with path=True gives many fast weights, so it can only be a chain's last link."
        )

    def init(params: Params, key: Array) -> Params:
        keys = jax.random.split(key, max(len(links), 1))
        return params._replace(
            rule=tuple(link.init(params, k).rule for link, k in zip(links, keys))
        )  # noqa: B905

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        rules = params.rule
        if not isinstance(rules, tuple) or len(rules) != len(links):
            raise ValueError(
                f"A chain of {len(links)} links needs a rule for each, got {rules!r}; "
                "call params = adaptation.init(params, key) first."
            )
        for number, link in enumerate(links):
            moved = link.adapt(
                params._replace(rule=rules[number]), support, jax.random.fold_in(key, number)
            )
            params = params._replace(fast=moved.fast)
        return params

    return Adaptation(init, adapt, path=bool(links) and links[-1].path)
