"""What a person sees while a sweep runs."""

import io
import re
from pathlib import Path

import pytest

from fedkeeper.display.screen import SafeConsole
from fedkeeper.runs.recorder import Recorder
from fedkeeper.runs.stored import Ended
from fedkeeper.sweeps import grid
from fedkeeper.sweeps import plan as sweep_plan
from fedkeeper.sweeps.view import SweepView

PLAN = sweep_plan.create(
    {"name": "demo"}, grid.parse(["training.learning_rate=0.1,0.01", "strategy.name=fedavg,fedavgm"]), 5, id="3f",
    created_s=1.0,
)  # fmt: skip
RUNS = sweep_plan.runs(PLAN)


def screen(*, terminal: bool, quiet: bool = False) -> str:
    """What is shown when one run is completed, the next one fails, and another one goes on."""
    out = io.StringIO()
    console = SafeConsole(file=out, width=80, force_terminal=terminal, color_system=None, highlight=False)
    recorder = Recorder(Path("demo"))
    recorder.rounds = [{"round": 1, "metrics": {"accuracy": 0.75}, "round_s": 2.0}]
    with SweepView(console, RUNS[2:], len(RUNS), quiet=quiet) as view:
        for run in RUNS[2:5]:
            view.start(run)
        view.end(RUNS[2], Ended("demo-3f-3-s1", "completed"), recorder)
        view.end(RUNS[3], Ended("demo-3f-4-s1", "failed", "\x1b[31mno quorum " + 20 * "and so on "), recorder)
    return out.getvalue()


def test_elsewhere_each_run_that_ends_is_a_whole_line() -> None:
    first, second = screen(terminal=False).splitlines()
    assert first == "[ 3/20] learning_rate 0.01, strategy fedavg, seed 1: accuracy 0.7500, 1 round, 2.00 s"
    assert second.startswith("[ 4/20] learning_rate 0.01, strategy fedavgm, seed 1: failed: ")
    assert second.rstrip().endswith("and so on")
    assert "\x1b" not in second


def test_on_a_terminal_lines_are_cut_and_a_bar_shows_how_many_run() -> None:
    shown = screen(terminal=True)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")
    lines = [line for line in plain.splitlines() if line.startswith("[")]
    assert [len(line.rstrip()) for line in lines] == [80, 80]
    assert "4/20 runs" in shown
    assert "1 running" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_tells_only_what_fails(*, terminal: bool) -> None:
    (line,) = screen(terminal=terminal, quiet=True).splitlines()
    assert line.startswith("[ 4/20]")
