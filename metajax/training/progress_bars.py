"""The progress bar of a run, drawn by tqdm where it is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

SECONDS = 10
"""Between two lines where no bar can be drawn: in a pipe, or in the log of a job."""


COMPILING = "compiling"


class ProgressBar:
    """A bar with the step, the loss, the metrics and the tasks per second.

    Args:
        bar: of tqdm. None draws nothing.
        done: number of the last step that was taken.
        steps: number of the step that the run ends with.
    """

    def __init__(self, bar: Any, done: int, steps: int):
        self.bar = bar
        self.done = done
        self.steps = steps

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Says that a program is compiled. The bar does not count this time."""
        if self.bar is None:
            yield
            return
        if not self.bar.desc.startswith(COMPILING):
            self.bar.set_description(COMPILING)
        yield
        self.bar.unpause()
        self.bar.set_description(self._step())

    def advance(
        self, done: int, share: float, means: Mapping[str, Any], tasks_per_second: float
    ) -> None:
        """Moves the bar forward, and writes the means of the last steps beside it.

        Args:
            done: number of the last step that was taken.
            share: how much of the run is done, from 0 to 1.
            means: what `mean_info` returns for the last steps.
            tasks_per_second: speed of these steps.
        """
        if self.bar is None:
            return
        shown = {name: value for name, value in means.items() if _is_shown(name, value)}
        shown["tasks/s"] = tasks_per_second
        text = {name: f"{value:.3g}" for name, value in shown.items()}
        self.done = done
        self.bar.set_description(self._step(), refresh=False)
        self.bar.set_postfix(text, refresh=False)
        self.bar.update(share - self.bar.n)
        self.bar.n = share  # the sum of many differences may be 0.9999999

    def _step(self) -> str:
        return f"step {self.done}/{self.steps}"


class Lines:
    """A stream in which each state of a bar is a line: a log has no line to draw over."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None)

    def write(self, text: str) -> None:
        """Writes a state of the bar. tqdm begins each one with a carriage return."""
        line = text.strip("\r\n ")
        if line:
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flushes the stream."""
        self.stream.flush()


@contextlib.contextmanager
def open_bar(done: int, steps: int, share: float, wanted: bool) -> Iterator[ProgressBar]:
    """A bar that starts at a share of the run, if it is wanted and tqdm is installed.

    On a terminal and in a notebook it is drawn anew ten times a second. Elsewhere there is a line
    every ten seconds, and one at the end.
    """
    try:
        import tqdm.auto
    except ImportError:
        wanted = False
    if not wanted:
        yield ProgressBar(None, done, steps)
        return
    where: dict[str, Any] = {}
    if not _is_drawn(tqdm.auto.tqdm):
        where = {"file": Lines(sys.stderr), "mininterval": SECONDS}
    with tqdm.auto.tqdm(
        desc=COMPILING if share < 1 else f"step {done}/{steps}",
        initial=share,
        total=1.0,
        miniters=0,
        smoothing=0,
        bar_format="{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]",
        **where,
    ) as bar:
        yield ProgressBar(bar, done, steps)


def _is_drawn(kind: Any) -> bool:
    """Whether a bar of this class can draw over itself: on a terminal, or as a widget."""
    from tqdm.std import tqdm

    is_widget = kind.display is not tqdm.display
    return is_widget or sys.stderr.isatty()


def _is_shown(name: str, value: Any) -> bool:
    """Numbers are shown, but not the norm of the gradient, and skipped tasks only if any."""
    if name == "grad_norm" or (name == "skipped" and value == 0):
        return False
    return isinstance(value, int | float)
