"""Rounds until each strategy's model reaches 90, 95 and 97 % test accuracy.

    python -m benchmarks.strategies [--only digits-shards] [--processes 2] [--plot docs]
    python -m benchmarks.strategies --choose digits-shards

The jobs run in one process (`benchmarks.simulation`). Their results are rows of `benchmarks/results/strategies.jsonl`;
a rerun adds those that are missing, and prints all. `--choose` prints how the settings below were chosen: by the
accuracy on samples that the clients hold out, with another seed than those of the results. The test set played no part.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import rows
from benchmarks.rows import RESULTS, Planned

TARGETS: Final = (0.90, 0.95, 0.97)

FILE: Final = RESULTS / "strategies.jsonl"
CHOICE_FILE: Final = RESULTS / "strategies-choice.jsonl"

CHOICE_SEED: Final = 100
"""The seed of the runs that settings are chosen by."""

HOLDOUT: Final = 0.2
"""The share of their samples that clients hold out in these runs."""

Strategy = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Data and training, the same for all strategies.

    Attributes:
        job: fields of the job, by table.
        strategies: the strategies by name: each one's table, and what of the training it sets.
        seeds: of the results. Each is also the seed of the partition.
        candidates: what the strategies were chosen from.
        choice_rounds: number of rounds that they were chosen by.
    """

    job: dict[str, dict[str, Any]]
    strategies: dict[str, Strategy]
    seeds: tuple[int, ...] = (1, 2, 3)
    candidates: dict[str, tuple[Strategy, ...]] = field(default_factory=dict)
    choice_rounds: int = 30


_SGD: Final = {"optimizer": "sgd", "batch_size": 10, "local_epochs": 1}

_DIGITS: Final = {"clients": 10, "dataset": "digits"}

_RATE: Final = {"learning_rate": 0.3}

# Chosen by `--choose digits-shards`: of the candidates below, those with the best accuracy on the clients' held-out
# samples. Without candidates are the last five: FedNova has no parameter, the robust ones have their defaults.
_CHOSEN: Final[dict[str, Strategy]] = {
    "fedavg": {"name": "fedavg", **_RATE},
    "fedprox": {"name": "fedprox", **_RATE, "mu": 0.01},
    "fedavgm": {"name": "fedavgm", **_RATE, "beta": 0.9},
    "fedadagrad": {"name": "fedadagrad", **_RATE, "rate": 0.03},
    "fedadam": {"name": "fedadam", **_RATE, "rate": 0.03},
    "fedyogi": {"name": "fedyogi", **_RATE, "rate": 0.03},
    "scaffold": {"name": "scaffold", **_RATE},
    "feddyn": {"name": "feddyn", **_RATE, "alpha": 0.1},
    "qfedavg": {"name": "qfedavg", **_RATE, "q": 0.1},
    "fednova": {"name": "fednova", **_RATE},
    "median": {"name": "median", **_RATE},
    "trimmed_mean": {"name": "trimmed_mean", **_RATE, "share": 0.2},
    "krum": {"name": "krum", **_RATE, "faulty": 1},
    "multi-krum": {"name": "krum", **_RATE, "faulty": 1, "keep": 7},
}


def _each(name: str, *, rates: Iterable[float] = (0.3,), **parameters: Iterable[Any]) -> tuple[Strategy, ...]:
    """Return candidates: all combinations of learning rates and values of a parameter."""
    found: list[Strategy] = [{"name": name, "learning_rate": rate} for rate in rates]
    for parameter, values in parameters.items():
        found = [{**each, parameter: value} for each in found for value in values]
    return tuple(found)


# The learning rate is FedAvg's best, unless a strategy says that its steps are of another size.
_CANDIDATES: Final[dict[str, tuple[Strategy, ...]]] = {
    "fedavg": _each("fedavg", rates=(0.01, 0.03, 0.1, 0.3, 1.0)),
    "scaffold": _each("scaffold", rates=(0.1, 0.3)),
    "feddyn": _each("feddyn", rates=(0.1, 0.3), alpha=(0.01, 0.1)),
    "fedadam": _each("fedadam", rate=(0.003, 0.01, 0.03)),
    "fedavgm": _each("fedavgm", beta=(0.5, 0.9)),
    "fedprox": _each("fedprox", mu=(0.01, 0.1)),
    "fedyogi": _each("fedyogi", rate=(0.003, 0.01, 0.03)),
    "fedadagrad": _each("fedadagrad", rate=(0.01, 0.03, 0.1)),
    "qfedavg": _each("qfedavg", q=(0.1, 1.0)),
}

_COMPARED: Final = ("fedavg", "fedprox", "scaffold", "feddyn", "fedadam")

_ADAM: Final = {"optimizer": "adam", "learning_rate": 1e-3}

_SGD_ON_MNIST: Final = {"optimizer": "sgd", "learning_rate": 0.1}

# The paper's training with Adam, and that with SGD, which SCAFFOLD needs and FedDyn's authors use. The first one of
# each strategy is what `--choose mnist-shards` gave. FedDyn has the parameter that was chosen on the digits.
_ON_MNIST: Final[dict[str, tuple[Strategy, ...]]] = {
    "fedavg": ({"name": "fedavg", **_SGD_ON_MNIST}, {"name": "fedavg", **_ADAM}),
    "fedavgm": (
        *({"name": "fedavgm", **_SGD_ON_MNIST, "beta": beta} for beta in (0.5, 0.9)),
        *({"name": "fedavgm", **_ADAM, "beta": beta} for beta in (0.5, 0.9)),
    ),
    "fedadam": tuple({"name": "fedadam", **_SGD_ON_MNIST, "rate": rate} for rate in (0.01, 0.03)),
    "feddyn": ({"name": "feddyn", **_SGD_ON_MNIST, "alpha": 0.1},),
    "scaffold": ({"name": "scaffold", **_SGD_ON_MNIST},),
}

SETTINGS: Final[dict[str, Setting]] = {
    # The quickstart with one local epoch: scikit-learn's digits, sorted by label, two shards for each of ten clients.
    "digits-shards": Setting(
        job={
            "training": _SGD,
            "data": {**_DIGITS, "partition": "shards"},
            "cohort": {"clients": 10},
            "stop": {"rounds": 100, "target_accuracy": TARGETS[-1]},
        },
        strategies=_CHOSEN,
        candidates=_CANDIDATES,
    ),
    # Labels in proportions of Dirichlet(0.1), so that clients also differ in their number of samples.
    "digits-dirichlet": Setting(
        job={
            "training": _SGD,
            "data": {**_DIGITS, "partition": "dirichlet", "alpha": 0.1, "min_samples": 10},
            "cohort": {"clients": 10},
            "stop": {"rounds": 60, "target_accuracy": TARGETS[-1]},
        },
        strategies={name: _CHOSEN[name] for name in _COMPARED if name in _CHOSEN},
    ),
    # The paper's section 4: 100 clients of two shards each, ten in a round, five local epochs.
    "mnist-shards": Setting(
        job={
            "training": {"batch_size": 10, "local_epochs": 5},
            "data": {"dataset": "mnist", "clients": 100, "partition": "shards"},
            "cohort": {"clients": 10},
            "stop": {"rounds": 300, "target_accuracy": TARGETS[-1]},
        },
        strategies={name: candidates[0] for name, candidates in _ON_MNIST.items()},
        seeds=(1,),
        candidates=_ON_MNIST,
        choice_rounds=40,
    ),
}

_OF_TRAINING: Final = {"learning_rate", "optimizer"}


def job_of(setting: Setting, strategy: Strategy, seed: int) -> dict[str, Any]:
    """Return a job as a job file has it.

    Args:
        setting: data and training.
        strategy: the strategy's table, and what of the training it sets.
        seed: the job's, and that of the partition.
    """
    own = {name: value for name, value in strategy.items() if name in _OF_TRAINING}
    table = {name: value for name, value in strategy.items() if name not in _OF_TRAINING}
    return {
        **setting.job,
        "name": "strategies",
        "seed": seed,
        "training": {**setting.job["training"], **own},
        "data": {**setting.job["data"], "seed": seed},
        "strategy": table,
    }


def plan(names: Sequence[str]) -> list[Planned]:
    """Return the runs of some settings: first one seed of all strategies, then the next.

    Args:
        names: the settings' names.
    """
    return [
        Planned({"setting": name, "strategy": label, "seed": seed}, job_of(SETTINGS[name], strategy, seed))
        for name in names
        for seed in SETTINGS[name].seeds
        for label, strategy in SETTINGS[name].strategies.items()
    ]


def choice_plan(name: str) -> list[Planned]:
    """Return the runs that the parameters of a setting, by its name, are chosen by."""
    setting, found = SETTINGS[name], []
    for label, candidates in setting.candidates.items():
        for candidate in candidates:
            job = job_of(setting, candidate, CHOICE_SEED)
            evaluation = {"every": 0, "holdout": HOLDOUT}
            names = {"setting": name, "strategy": label, "parameters": _text(candidate)}
            found.append(Planned(names, {**job, "evaluation": evaluation, "stop": {"rounds": setting.choice_rounds}}))
    return found


def _text(strategy: Strategy) -> str:
    return ", ".join(f"{name} = {value}" for name, value in strategy.items() if name != "name")


def merit(accuracy: Sequence[float]) -> float:
    """Return the mean accuracy of the last ten rounds: one lucky round does not decide."""
    return statistics.fmean(accuracy[-10:]) if accuracy else 0.0


def choices(found: Iterable[dict[str, Any]]) -> str:
    """Return a table of what each candidate has come to; the best one of each strategy is marked.

    Args:
        found: the rows.
    """
    lines = []
    for label, group in rows.grouped(found, lambda row: row["strategy"]).items():
        best = max(group, key=lambda row: merit(row["accuracy"]))
        for row in group:
            mark = "*" if row is best else ""
            first = rows.rounds_to(row["accuracy"], TARGETS[0])
            cells = f"{merit(row['accuracy']):.3f}{mark}", "-" if first is None else str(first), row["error"][:40]
            lines.append((label, row["parameters"], *cells))
    return rows.table(("strategy", "parameters", "held-out accuracy, last 10 rounds", "rounds to 90 %", "error"), lines)


def results(found: Iterable[dict[str, Any]]) -> str:
    """Return a table of the rounds to each target: the median of the seeds, and all of them.

    Args:
        found: the rows of one setting.
    """
    found, lines = list(found), []
    trainings = [row["job"]["training"] for row in found]
    differing = {name for name in _OF_TRAINING if len({training.get(name) for training in trainings}) > 1}
    for label, group in rows.grouped(found, lambda row: row["strategy"]).items():
        cells = [rows.median_rounds(group, target) for target in TARGETS]
        ends = [row["accuracy"][-1] if row["accuracy"] else 0.0 for row in group]
        seconds = statistics.fmean(row["seconds"] / max(1, len(row["accuracy"])) for row in group)
        job = group[0]["job"]
        own = {**{name: job["training"].get(name) for name in sorted(differing)}, **job["strategy"]}
        spread = f"{statistics.fmean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f})"
        lines.append((label, _text(own), *cells, spread, f"{seconds:.2f}"))
    targets = [f"{target:.0%}" for target in TARGETS]
    return rows.table(("strategy", "parameters", *targets, "last round", "s per round"), lines)


def draw(found: Iterable[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy by round of one setting: a panel for each strategy, with FedAvg's curve in grey.

    A curve is the mean of the seeds, its band goes from the worst to the best.

    Args:
        found: the setting's rows.
        path: the picture. It has the same bytes for the same rows and matplotlib.
    """
    from matplotlib.figure import Figure

    curves = {label: _curve(group) for label, group in rows.grouped(found, lambda row: row["strategy"]).items()}
    columns = min(4, len(curves))
    lines = math.ceil(len(curves) / columns)
    picture = Figure(figsize=(2.6 * columns, 2.1 * lines), layout="constrained")
    panels = picture.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (label, (low, mean, high)) in zip(panels, curves.items(), strict=False):
        numbers = range(1, len(mean) + 1)
        if "fedavg" in curves:
            reference = curves["fedavg"][1]
            axes.plot(range(1, len(reference) + 1), reference, color="0.7")
        axes.fill_between(numbers, low, high, color="C0", alpha=0.25, linewidth=0)
        axes.plot(numbers, mean, color="C0", marker="o", markersize=3, markevery=[-1])
        axes.axhline(TARGETS[-1], color="black", linewidth=0.5)
        axes.set(title=label, xscale="log", ylim=(0.3, 1.0))
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    picture.supxlabel("round")
    picture.supylabel("test accuracy")
    picture.savefig(path, dpi=100, metadata={"Software": None})


def _curve(group: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Return the lowest, the mean and the highest accuracy of the seeds by round, as far as all have come."""
    by_round = list(zip(*(row["accuracy"] for row in group), strict=False))
    return [min(each) for each in by_round], [statistics.fmean(each) for each in by_round], [max(e) for e in by_round]


def main() -> None:
    """Read the arguments, make the runs that are missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=["digits-shards", "digits-dirichlet"])
    parser.add_argument("--choose", choices=[name for name in SETTINGS if SETTINGS[name].candidates])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no run after this time")
    parser.add_argument("--plot", type=Path, help="the folder of a picture for each setting")
    options = parser.parse_args()
    until_s = None if options.minutes is None else time.time() + 60 * options.minutes
    file, runs = (CHOICE_FILE, choice_plan(options.choose)) if options.choose else (FILE, plan(options.only))
    rows.add_missing(runs, file, processes=options.processes, until_s=until_s)
    found = rows.found(runs, file)
    if options.choose:
        print(choices(found))
        return
    for name, group in rows.grouped(found, lambda row: row["setting"]).items():
        print(f"\n{name}\n\n{results(group)}")
        if options.plot:
            draw(group, options.plot / f"strategies-{name}.png")


if __name__ == "__main__":
    main()
