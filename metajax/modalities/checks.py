"""Checks of inputs and rules that several files of this package need.

`metajax._checks.check_no_modality_missing` checks that no modality is missing where each needs an
entry; lower packages need it, too.
"""

from __future__ import annotations

from typing import Any

from metajax.types import Modalities, Params


def check_modalities(x: Any, what: str = "x of the batch") -> None:
    """Checks that inputs are named modalities.

    Raises:
        ValueError: not a `Modalities`.
    """
    if not isinstance(x, Modalities):
        raise ValueError(
            f"{what} must be a Modalities, got {type(x).__name__}; data.as_modalities makes one."
        )


def check_rule(params: Params, part: str, adaptation: str) -> None:
    """Checks that the rule of an adaptation was initialised.

    Args:
        params: whose `rule` is read.
        part: an entry that the rule has after initialisation.
        adaptation: its name, for the error.

    Raises:
        ValueError: a rule without that entry.
    """
    if not isinstance(params.rule, dict) or part not in params.rule:
        raise ValueError(
            f"{adaptation} has no rule yet; call params = adaptation.init(params, key) first."
        )
