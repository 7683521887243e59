"""What wrong arguments do: the examples of the library, each with one argument replaced.

An example is the doctest of a public name, or a line of SEEDS below. One argument of one call in it
is replaced by one of VALUES, and the outcome is counted:

    right      it runs
    later      it runs, and another library refuses what came of it in a later line
    nan        it runs, and the last line is NaN somewhere, though no argument was
    refused    an error whose innermost frame is in metajax
    inside     an error whose innermost frame is in another library: the user gets no remedy
    hang       it takes longer than SECONDS

    python benchmarks/fuzz.py --calls 10000
"""

import argparse
import ast
import collections
import concurrent.futures
import contextlib
import doctest
import functools
import importlib
import inspect
import io
import multiprocessing
import os
import pathlib
import pkgutil
import random
import signal
import tempfile
import time
import traceback
import warnings

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj

# Before the backend starts: most of the time is compilation, and LLVM need not optimise.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
jax.config.update("jax_traceback_filtering", "off")  # JAX hides its own frames otherwise

ROOT = pathlib.Path(inspect.getfile(mj)).parent
SECONDS = 60
OUTCOMES = ("right", "later", "refused", "nan", "inside", "hang")

VALUES = {
    "None": None,
    "True": True,
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "a text": "a text",
    "[]": [],
    "{}": {},
    "()": (),
    "np.int64(2)": np.int64(2),
    "scalar": jnp.ones(()),
    "vector": jnp.ones(2),
    "matrix": jnp.ones((2, 3)),
    "empty": jnp.ones((0, 3)),
    "rank 4": jnp.ones((1, 2, 3, 4)),
    "integers": jnp.arange(3),
    "negative": jnp.array([-1, 0, 5]),
    "complex": jnp.ones(2, jnp.complex64),
    "bools": jnp.array([True, False]),
    "nans": jnp.array([jnp.nan, 1.0]),
    "list of arrays": [jnp.ones((3, 3))] * 4,
    "objects": np.array([object(), None]),
    "key": jax.random.key(1),
    "old key": jax.random.PRNGKey(1),
    "lambda": lambda: None,
    "function": jnp.tanh,
    "object": object(),
    "params": mj.Params({"w": jnp.ones(2)}, {}),
    "batch": mj.Batch(jnp.ones((2, 3)), jnp.array([0, 1])),
    "task": mj.Task(mj.Batch(jnp.ones((1, 3)), jnp.array([0])), mj.Batch(jnp.ones((1, 3)), None)),
    "optimizer": optax.sgd(0.1),
    "module": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
}

SETUP = """
import functools
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
import metajax as mj
key = jax.random.key(0)
x = jax.random.normal(key, (6, 4)); y = jnp.array([0, 1, 2, 0, 1, 2])
support = mj.Batch(x, y); query = mj.Batch(x + 0.1, y); task = mj.Task(support, query)
tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), task)
two = mj.data.as_modalities({"image": x, "audio": 2 * x})
modal = mj.Task(mj.Batch(two, y), mj.Batch(two, y))
modals = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), modal)
net = mj.nets.MLP(4, (5,), 3, rngs=nnx.Rngs(0))
apply, params = mj.nets.functional(net)
embed = functools.partial(apply, method="embed")
loss = mj.losses.cross_entropy(apply)
identity = mj.nets.identity_encoder
empty = mj.Params({}, {})
source = mj.data.dataset(np.arange(36.0).reshape(12, 3), np.repeat(np.arange(3), 4))
features = {"image": x, "audio": 2 * x}
present = {"image": jnp.ones(6, bool), "audio": jnp.ones(6, bool)}
"""

SEEDS = [
    *(
        f"mj.inner_loop(loss, {optimizer}, steps=2, differentiate={strategy})"
        ".adapt(params, support, key)"
        for optimizer, strategy in [
            ("optax.sgd(0.1)", "mj.unroll(remat=1)"),
            ("optax.sgd(0.1)", "mj.first_order()"),
            ("optax.sgd(0.1)", "mj.truncated(1)"),
            ("optax.sgd(0.1)", "mj.one_step(difference=0.01)"),
            ("optax.adam(0.1, eps_root=1e-8)", "mj.mixed_mode(remat=1)"),
            ("optax.sgd(0.1)", "mj.implicit(mj.conjugate_gradient(steps=3), tolerance=1e-3)"),
            ("optax.sgd(0.1)", "mj.implicit(mj.neumann(terms=3, rate=0.1), stop=1e-3)"),
            ("optax.sgd(0.1)", "mj.implicit(mj.dense())"),
        ]
    ),
    *(
        f"a = mj.inner_loop(loss, {rule}, steps=2); p = a.init(params, key); "
        "a.adapt(p, support, key)"
        for rule in [
            "mj.learned_rates(0.1, steps=2)",
            "mj.leaf_rates(0.1)",
            "mj.shared_rate(0.1)",
            "mj.learned(optax.sgd, 0.1)",
        ]
    ),
    *(
        f"learner = mj.algorithms.{name}; learner.task_loss(learner.params, task, key)"
        for name in [
            "maml(net, inner_rate=0.1, inner_steps=1)",
            "fomaml(net, inner_rate=0.1, inner_steps=1)",
            "anil(net, inner_rate=0.1, inner_steps=1)",
            "boil(net, inner_rate=0.1, inner_steps=1)",
            "meta_sgd(net, initial_rate=0.1, inner_steps=1)",
            "maml_plus_plus(net, initial_rate=0.1, inner_steps=1, multi_step_until=2)",
            "reptile(net, inner_rate=0.1, inner_steps=1)",
            "imaml(net, inner_rate=0.1, inner_steps=1, proximity=1.0)",
            "protonets(net, 3)",
            "r2d2(net, 3)",
            "proto_maml(net, 3, inner_steps=1)",
            "fine_tuning(net, 3, rate=0.1, steps=1)",
        ]
    ),
    "a = mj.prototypes(embed, ways=3); a.adapt(params, support, key)",
    "a = mj.ridge(identity, ways=3); p = a.init(empty, key); a.adapt(p, support, key)",
    "a = mj.prototypes(identity, 3); mj.predict(a, mj.linear_head(), empty, support, x, key)",
    "a = mj.chain(mj.identity(), mj.prototypes(identity, 3)); a.adapt(empty, support, key)",
    "a = mj.inner_loop(loss, optax.sgd(0.1), steps=1);"
    " mj.evaluate(mj.query_loss(a, loss, inductive=True), params, tasks, key)",
    "a = mj.inner_loop(loss, optax.sgd(0.1), steps=1); mj.reptile(a, loss)(params, task, key)",
    "mj.supervised(loss)(params, support, key)",
    "o = mj.outer_loop(mj.query_loss(mj.prototypes(embed, 3), loss), optax.sgd(0.1),"
    " tasks_at_once=1); s = o.init(params); o.step(s, tasks, key)",
    "o = mj.outer_loop(mj.supervised(loss), optax.sgd(0.1)); s = o.init(params);"
    " mj.training.fit(o, s, mj.data.meta_batch(lambda d, key: support, tasks=2), (), key,"
    " steps=2, every=1, progress=False)",
    "mj.predict(mj.inner_loop(loss, optax.sgd(0.1), steps=1), apply, params, support, x, key,"
    " inductive=True)",
    "mj.losses.cross_entropy(identity)(empty, mj.Batch(x, y, jnp.ones(6)), key)",
    "mj.losses.squared_error(identity)(empty, mj.Batch(x, x, jnp.ones(6)), key)",
    *(
        f"mj.nets.{name}(jnp.ones({shape}))"
        for name, shape in [
            ("Conv(1, 2, rngs=nnx.Rngs(0))", (2, 8, 8, 1)),
            ("Conv4(3, channels=1, width=2, size=16, rngs=nnx.Rngs(0))", (2, 16, 16, 1)),
            ("ResNet12(3, channels=1, widths=(2, 2, 2, 2), rngs=nnx.Rngs(0))", (2, 16, 16, 1)),
            ("TaskNorm(3)", (2, 3)),
            ("GroupNorm(4, groups=2)", (2, 4)),
            ("FrozenNorm(3)", (2, 3)),
            ("NoNorm(3)", (2, 3)),
        ]
    ),
    *(
        f"mj.nets.fusion.{name}(features, present)"
        for name in [
            "Late(['image', 'audio'], 4, 3, rngs=nnx.Rngs(0))",
            "Gated(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
            "Weighted(['image', 'audio'])",
            "Deep(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
            "Concatenation(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
            "Tensor(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
            "LowRankTensor(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
            "Multiplicative(['image', 'audio'])",
            "Recurrent(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
            "StackedConvolution(['image', 'audio'], 4, rngs=nnx.Rngs(0))",
        ]
    ),
    "mj.nets.fusion.total(features, present)",
    "mj.nets.fusion.maximum(features, present)",
    "mj.nets.fusion.mean(features, present)",
    "mj.modalities.triplet(x, x, margin=0.2, weight=jnp.ones(6))",
    "mj.modalities.sigmoid_loss(x, x, weight=jnp.ones(6))",
    "mj.modalities.info_nce(x, x, temperature=0.1, weight=jnp.ones(6))",
    "mj.modalities.recall(x, x, 2, weight=jnp.ones(6))",
    "mj.modalities.drop_modalities(two, 0.5, key)",
    "mj.modalities.learned_dropout(two, 0.5, key)",
    "mj.modalities.ruler(identity, empty, modals, modals, key, ways=3, shots=[1], grid=2, steps=2)",
    "a = mj.modalities.modal_prototypes(identity, ways=3); p = a.adapt(empty, modal.support, key);"
    " mj.modalities.late_head(identity)(p, two)",
    "mj.data.rotated(mj.data.dataset(np.ones((4, 3, 3, 1)), np.arange(4)))",
    "mj.data.meta_batch(mj.data.episodes(2, 1, 1), tasks=2)(source, key)",
    "mj.data.varied_episodes(ways=(2, 3), support=4, queries=1, shots=2)(source, key)",
    "mj.data.semi_supervised(2, 1, 1, unlabelled=1)(source, key)",
    "mj.diagnostics.check_meta_gradient(mj.query_loss(mj.inner_loop(loss, optax.sgd(0.1),"
    " steps=1), loss), params, task, key)",
]
"""Calls of public names that have no doctest, after SETUP."""

OURS = ("mj", "metajax")


def exported():
    """The ids of everything that a package of metajax exports."""
    packages = [mj]
    for info in pkgutil.walk_packages([str(ROOT)], "metajax."):
        if info.ispkg:
            packages.append(importlib.import_module(info.name))
    return {
        id(value)
        for package in packages
        for name, value in vars(package).items()
        if not name.startswith("_")
    }


def examples():
    """{name: source} of the doctests of all public names, and of SEEDS."""
    found = {}
    public = exported()
    parser = doctest.DocTestParser()
    for info in pkgutil.walk_packages([str(ROOT)], "metajax."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if id(value) not in public or getattr(value, "__module__", None) != info.name:
                continue
            lines = [example.source for example in parser.get_examples(inspect.getdoc(value) or "")]
            if lines:
                imports = f"from {info.name} import *\nfrom {info.name} import {name}\n"
                modules = {
                    key: one.__name__ for key, one in vars(module).items() if inspect.ismodule(one)
                }
                imports += "".join(f"import {one} as {key}\n" for key, one in modules.items())
                names = [key for key in vars(module) if not key.startswith("_")]
                imports += f"from {info.name} import {', '.join(names)}\n"
                found[f"{info.name.removeprefix('metajax.')}.{name}"] = imports, "".join(lines)
    for seed in SEEDS:
        found[seed] = SETUP, seed
    return found


class NotOursError(Exception):
    """The call whose argument was to be replaced is one of another library."""


def ours(function):
    """The function, if it is one of metajax."""
    one = function
    while isinstance(one, functools.partial):
        one = one.func
    code = getattr(one, "__code__", None)
    module = one.__module__ if inspect.isclass(one) else type(one).__module__
    if code is None and module.startswith("metajax"):
        return function
    if code is None or not code.co_filename.startswith(str(ROOT)):
        raise NotOursError
    return function


class Replace(ast.NodeTransformer):
    """Replaces one argument of one call by the name VALUE, and the function f by OURS(f)."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.number = -1

    def _replaced(self, node):
        self.number += 1
        return ast.Name("VALUE", ast.Load()) if self.number == self.wanted else node

    def visit_Call(self, node):
        self.generic_visit(node)
        if is_of_another(node.func):
            return node
        before = self.number
        node.args = [self._replaced(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self._replaced(keyword.value)
        if before < self.wanted <= self.number:
            node.func = ast.Call(ast.Name("OURS", ast.Load()), [node.func], [])
        return node


def is_of_another(function):
    """Whether what is called is no part of metajax, as far as its name tells."""
    while isinstance(function, ast.Attribute):
        function = function.value
    first = function.id if isinstance(function, ast.Name) else ""
    others = ("jnp", "jax", "np", "nnx", "optax", "functools", "print", "round", "sorted", "list",
              "len", "dict", "float", "int", "tuple", "abs", "range", "zip", "tempfile", "pathlib",
              "hk", "eqx", "linen", "set", "sum", "max", "min", "any", "all", "Image", "os",
              "isinstance", "type", "str", "bool", "itertools", "math", "tuple")  # fmt: skip
    return first in others


def count_arguments(source):
    counter = Replace(-1)
    counter.visit(ast.parse(source))
    return counter.number + 1


@functools.cache
def namespace_of(setup):
    """What the lines of a setup define."""
    namespace = {}
    exec(compile(setup, "<setup>", "exec"), namespace)
    return namespace


def run(setup, source, wanted, value):
    """The outcome of one example, and the text of the error."""
    tree = ast.fix_missing_locations(Replace(wanted).visit(ast.parse(source)))
    namespace = {**namespace_of(setup), "VALUE": value, "OURS": ours}

    def stop(number, frame):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            last = tree.body.pop()
            exec(compile(tree, "<example>", "exec"), namespace)
            if not isinstance(last, ast.Expr):
                exec(compile(ast.Module([last], []), "<example>", "exec"), namespace)
                return "right", ""
            result = eval(compile(ast.Expression(last.value), "<example>", "eval"), namespace)
            is_nan = has_nan(result) and not has_nan(value)
            return ("nan" if is_nan else "right"), ""
    except TimeoutError:
        return "hang", ""
    except NotOursError:
        return "another library", ""
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any(frame.filename.startswith(str(ROOT)) for frame in frames):
            return "later", ""
        is_ours = frames[-1].filename.startswith((str(ROOT), "<"))
        text = f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
        return ("refused" if is_ours else "inside"), text
    finally:
        signal.alarm(0)


def has_nan(tree):
    """Whether a floating-point leaf of a tree is NaN."""
    for leaf in jax.tree.leaves(tree):
        is_float = isinstance(leaf, float) or jnp.issubdtype(
            getattr(leaf, "dtype", np.int32), np.floating
        )
        if is_float and bool(np.isnan(np.asarray(leaf, np.float64)).any()):
            return True
    return False


def run_part(calls, seed, part, parts):
    """Counts of the outcomes of some calls, and those that should not be, in this process.

    Args:
        calls: how many.
        seed: of the order of all calls.
        part: which of the parts that all calls are divided into.
        parts: their number.
    """
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    found = examples()
    every = [
        (name, place, value) for name, (_, source) in found.items()
        for place in range(count_arguments(source)) for value in VALUES
    ]  # fmt: skip
    rng.shuffle(every)
    counts = collections.Counter()
    bad = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        jax.config.update("jax_compilation_cache_dir", f"{folder}/programs")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for number, (name, place, value) in enumerate(every[part::parts]):
            if sum(counts.values()) == calls:
                break
            setup, source = found[name]
            outcome, text = run(setup, source, place, VALUES[value])
            if outcome == "another library":
                continue
            counts[outcome] += 1
            if outcome in ("inside", "hang", "nan"):
                bad.append([name, place, value, outcome, text])
            if number % 200 == 199:
                jax.clear_caches()
    return counts, bad


def main(options):
    started = time.time()
    parts = options.processes
    with concurrent.futures.ProcessPoolExecutor(
        parts, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        running = [
            pool.submit(run_part, options.calls // parts, options.seed, part, parts)
            for part in range(parts)
        ]
        done = [one.result() for one in running]
    counts = sum((counts for counts, _ in done), collections.Counter())
    report = harness.brief_header() | {
        "calls": sum(counts.values()),
        "examples": len(examples()),
        "values": len(VALUES),
        "seed": options.seed,
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "seconds": time.time() - started,
        "bad": [one for _, bad in done for one in bad],
    }
    harness.save(options.out, "fuzz", report)
    print(report["outcomes"])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--calls", type=int, default=10_000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--processes", type=int, default=2)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

if __name__ == "__main__":
    main(parser.parse_args())
