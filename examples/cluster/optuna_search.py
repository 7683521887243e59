"""A search for the outer rate and the inner rate, as trials of Optuna on several workers.

Every worker runs this script with the same study, in a file or a database that all of them see.
Trials that are worse than the median of the others at the same step are stopped.

    pip install optuna
    python examples/cluster/optuna_search.py --study run/study.log --trials 20
    python examples/cluster/optuna_search.py --study run/study.log --trials 20    # a second worker
"""

import argparse
import pathlib

import jax
import optax
from flax import nnx

import metajax as mj

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--study", type=pathlib.Path, required=True, help="a file for all workers")
parser.add_argument("--trials", type=int, default=20, help="of this worker")
parser.add_argument("--steps", type=int, default=2000)

WAVES = mj.data.sinusoids(shots=10, queries=10)


def error(outer_rate, inner_rate, steps, is_hopeless=lambda step, error: False):
    """The error on validation tasks after training, which ends early where it is hopeless."""
    net = mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0))
    learner = mj.algorithms.maml(net, loss=mj.losses.squared_error, inner_rate=inner_rate)
    outer = mj.outer_loop(learner.task_loss, optax.adam(outer_rate))
    validation = mj.data.meta_batch(WAVES, tasks=200)((), jax.random.key(1))
    _, records = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(WAVES, tasks=16),
        (),
        jax.random.key(0),
        steps=steps,
        every=max(1, steps // 4),
        evaluate=lambda params, key: mj.evaluate(learner.task_loss, params, validation, key),
        on_record=lambda record: is_hopeless(record["step"], record["evaluate/loss"]),
        progress=False,
    )
    return records[-1]["evaluate/loss"], records[-1]["step"]


def main(options):
    import optuna

    def run(trial):
        def is_hopeless(step, error):
            trial.report(error, step)
            return trial.should_prune()

        outer_rate = trial.suggest_float("outer_rate", 1e-4, 1e-1, log=True)
        inner_rate = trial.suggest_float("inner_rate", 1e-3, 1.0, log=True)
        try:
            found, step = error(outer_rate, inner_rate, options.steps, is_hopeless)
        except FloatingPointError as diverged:
            raise optuna.TrialPruned from diverged
        if step < options.steps:
            if trial.should_prune():
                raise optuna.TrialPruned
            raise KeyboardInterrupt  # a signal has ended the training, and ends the worker
        return found

    options.study.parent.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(options.study))
    study = optuna.create_study(
        study_name="maml",
        storage=optuna.storages.JournalStorage(backend),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    study.optimize(run, n_trials=options.trials)
    print(f"{len(study.trials)} trials; best {study.best_value:.3f} with {study.best_params}")


if __name__ == "__main__":
    main(parser.parse_args())
