"""The progress bar of a run, drawn by tqdm where it is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any


class ProgressBar:
    """A bar with the loss, the metrics and the tasks per second. With None, nothing is drawn."""

    def __init__(self, bar: Any):
        self.bar = bar

    def advance(self, steps: int, means: Mapping[str, Any], tasks_per_second: float) -> None:
        """Moves the bar forward, and writes the means of these steps beside it.

        Args:
            steps: number of steps that were taken.
            means: what `mean_info` returns for them.
            tasks_per_second: speed of these steps.
        """
        if self.bar is None:
            return
        shown = {name: value for name, value in means.items() if _is_shown(name, value)}
        shown["tasks/s"] = tasks_per_second
        text = {name: f"{value:.3g}" for name, value in shown.items()}
        self.bar.set_postfix(text, refresh=False)
        self.bar.update(steps)


def _is_shown(name: str, value: Any) -> bool:
    """Numbers are shown, but not the norm of the gradient, and skipped tasks only if any."""
    if name == "grad_norm" or (name == "skipped" and value == 0):
        return False
    return isinstance(value, int | float)


@contextlib.contextmanager
def open_bar(done: int, steps: int, wanted: bool) -> Iterator[ProgressBar]:
    """A bar over all steps, of which some are done, if it is wanted and tqdm is installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield ProgressBar(None)
        return
    with tqdm(total=steps, initial=done, unit="step") as bar:
        yield ProgressBar(bar)
