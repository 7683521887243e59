"""The bar of `fit`: on a terminal, in a pipe, and as a widget of a notebook."""

import contextlib
import io
import itertools
import re
import types

import jax
import jax.numpy as jnp
import optax
import tqdm.auto

import metajax as mj
from metajax.training import loops
from metajax.training.progress_bars import ProgressBar, open_bar

KEY = jax.random.key(0)


def distance(params, target, key):
    return ((params.slow - target) ** 2).sum(), {}


OUTER = mj.outer_loop(distance, optax.sgd(0.1))
START = OUTER.init(mj.Params({}, jnp.ones(3)))


def sample(dataset, key):
    return jax.random.normal(key, (4, 3))


def run(steps, **options):
    return mj.training.fit(OUTER, START, sample, (), KEY, steps=steps, **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


on_terminal = lambda: contextlib.redirect_stderr(Terminal())
in_pipe = lambda: contextlib.redirect_stderr(io.StringIO())


def frames(stream):
    """What a terminal shows one after the other."""
    return [frame.strip() for frame in re.split(r"[\r\n]", stream.getvalue()) if frame.strip()]


def percent(frame):
    return int(re.search(r"(\d+)%\|", frame)[1])


def test_it_says_that_it_compiles_and_ends_full():
    with on_terminal() as terminal:
        run(20, fuse=2, every=20)
    shown = frames(terminal)
    assert shown[0].startswith("compiling:   0%|")
    assert shown[-1].startswith("step 20/20: 100%|")
    says_step = [frame.startswith("step ") for frame in shown]
    assert says_step == sorted(says_step), "compiling is said once, at the start"


def test_with_seconds_it_counts_time_and_ends_full(monkeypatch):
    """The clock moves by a quarter of a second at each look, so that a call takes half of one."""
    clock = itertools.count(0.0, 0.25)
    monkeypatch.setattr(loops, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    shares = []
    advance = ProgressBar.advance

    def advance_and_keep(self, done, share, *others):
        shares.append(share)
        advance(self, done, share, *others)

    monkeypatch.setattr(ProgressBar, "advance", advance_and_keep)
    with on_terminal() as terminal:
        run(10**6, every=10**6, fuse=5, seconds=2.0)
    assert shares == [0.25, 0.5, 0.75, 1.0]
    assert frames(terminal)[-1].startswith("step 20/1000000: 100%|")


def test_with_seconds_that_are_not_needed_it_counts_steps():
    with on_terminal() as terminal:
        run(10, every=10, seconds=10**6)
    assert frames(terminal)[-1].startswith("step 10/10: 100%|")


def test_a_run_that_is_ended_early_does_not_end_full():
    with on_terminal() as terminal:
        run(10, every=5, on_record=lambda record: True)
    assert frames(terminal)[-1].startswith("step 5/10:  50%|")


def test_a_run_that_goes_on_starts_where_it_was(tmp_path):
    run(4, every=4, checkpoint=tmp_path / "run", progress=False)
    with on_terminal() as terminal:
        run(8, every=4, checkpoint=tmp_path / "run")
    shown = frames(terminal)
    assert shown[0].startswith("compiling:  50%|")
    assert shown[-1].startswith("step 8/8: 100%|")
    with on_terminal() as terminal:
        run(8, every=4, checkpoint=tmp_path / "run")
    assert frames(terminal)[-1].startswith("step 8/8: 100%|")


def test_a_pipe_gets_a_few_whole_lines():
    with in_pipe() as pipe:
        run(300, every=300)
    text = pipe.getvalue()
    assert "\r" not in text
    assert text.endswith("\n")
    lines = text.splitlines()
    assert len(lines) == 3
    assert [line.partition(":")[0] for line in lines] == ["compiling", "step 0/300", "step 300/300"]


def test_a_long_run_in_a_pipe_has_a_line_every_ten_seconds(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(tqdm.std, "time", lambda: now)
    with in_pipe() as pipe, open_bar(0, 100, 0.0, True) as bar:
        for done in range(1, 101):
            now += 1
            bar.advance(done, done / 100, {"loss": 1.0}, 40.0)
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 12  # at the start, ten times, and at the end
    assert lines[5].startswith("step 50/100:  50%|")
    assert lines[5].endswith("[00:50<00:50, loss=1, tasks/s=40]")


def test_a_widget_of_a_notebook_is_drawn_as_a_bar(monkeypatch):
    """A notebook has no terminal, and its bars do not write to a stream."""
    drawn = []

    class Widget(tqdm.std.tqdm):
        def display(self, *args, **kwargs):
            drawn.append((self.desc, self.n))

    monkeypatch.setattr(tqdm.auto, "tqdm", Widget)
    with in_pipe() as pipe:
        run(10, every=10)
    assert drawn[0] == ("compiling", 0)
    assert drawn[-1] == ("step 10/10: ", 1.0)
    assert "%" not in pipe.getvalue()


def test_compilation_does_not_count_as_time(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(tqdm.std, "time", lambda: now)
    with on_terminal() as terminal, open_bar(0, 10, 0.0, True) as bar:
        with bar.compiling():
            now += 100
        now += 5
        bar.advance(5, 0.5, {}, 1.0)
    assert frames(terminal)[-1].startswith("step 5/10:  50%|")
    assert frames(terminal)[-1].endswith("[00:05<00:05, tasks/s=1]")
