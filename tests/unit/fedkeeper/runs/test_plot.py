"""The plot of finished jobs, and the errors when it can't be drawn."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from broker.messages import job_file
from fedkeeper.errors import BadOption, Missing
from fedkeeper.runs import plot

PNG = b"\x89PNG\r\n\x1a\n"


def row(round_: int, accuracy: float | None) -> dict[str, Any]:
    times = dict.fromkeys(plot.PHASES, 0.5)
    return {"round": round_, "accuracy": accuracy, **times, "evaluation_s": None if accuracy is None else 0.25}


def job(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


class DrawingCalls:
    """Records the calls of matplotlib's plot and bar, and draws."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.curves: list[tuple[str, list[int], list[float]]] = []
        self.bars: dict[str, tuple[list[float], list[float]]] = {}
        self.axes: list[Axes] = []
        self._real = Axes.plot, Axes.bar
        real = Figure.subplots

        def subplots(figure: Figure, *shape: int) -> Any:
            self.axes = list(real(figure, *shape))
            return self.axes

        monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **options: self._curve(axes, x, y, options))
        monkeypatch.setattr(Figure, "subplots", subplots)
        monkeypatch.setattr(Axes, "bar", lambda axes, x, height, **options: self._bar(axes, x, height, options))

    def _curve(self, axes: Axes, x: list[int], y: list[float], options: dict[str, Any]) -> object:
        self.curves.append((options["label"], x, y))
        return self._real[0](axes, x, y, **options)

    def _bar(self, axes: Axes, x: list[int], height: list[float], options: dict[str, Any]) -> object:
        self.bars[options["label"]] = (height, options["bottom"])
        return self._real[1](axes, x, height, **options)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> DrawingCalls:
    return DrawingCalls(monkeypatch)


def test_rounds_that_were_evaluated_are_a_curve_per_job(calls: DrawingCalls, tmp_path: Path) -> None:
    first = job(tmp_path / "one", row(1, 0.25), row(2, None), row(3, 0.75))
    second = job(tmp_path / "two", row(1, 0.5))
    picture = plot.plot([first, second], tmp_path / "accuracy.png")
    assert picture.read_bytes().startswith(PNG)
    assert calls.curves == [("one", [1, 3], [0.25, 0.75]), ("two", [1], [0.5])]


@pytest.mark.parametrize(
    ("parts", "name", "values"),
    [
        ({"metrics": {"loss": 0.5, "auroc": 0.75}}, "auroc.png", [[0.75], [0.5]]),
        ({"metrics": {"loss": 0.5}}, "loss.png", [[0.5]]),
        ({"metrics": {}, "evaluation_clients": {"metrics": {"r2": 0.25}}}, "r2.png", [[0.25]]),
        ({"evaluation_clients": None, "client_metrics": {"steps": 6.0, "loss": 0.125}}, "loss.png", [[0.125]]),
        ({}, "accuracy.png", [[]]),
    ],
)
def test_without_an_accuracy_what_was_measured_is_plotted(
    calls: DrawingCalls, tmp_path: Path, parts: dict[str, Any], name: str, values: list[list[float]]
) -> None:
    rows = [row(1, None) | parts]
    assert plot.default_name(rows) == name
    plot.plot([job(tmp_path / "one", *rows)], tmp_path / name)
    assert [curve[2] for curve in calls.curves] == values


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../evil", "_evil.png"),
        ("val/acc", "val_acc.png"),
        ("$x^2$", "_x_2_.png"),
        ("..", "metric.png"),
        ("a\x1b[31m", "a__31m.png"),
        ("é" * 300, "_" * 80 + ".png"),
        ("f1-macro.v2", "f1-macro.v2.png"),
    ],
)
def test_a_metric_of_any_name_is_a_plain_file_and_a_plain_title(
    calls: DrawingCalls, tmp_path: Path, name: str, file: str
) -> None:
    rows = [row(1, None) | {"metrics": {name: 0.5}}]
    assert plot.default_name(rows) == file
    plot.plot([job(tmp_path / "one", *rows)], tmp_path / file)
    title = calls.axes[0].get_title()
    assert title.replace("\\$", "").count("$") == 0
    assert title.isprintable()


def test_the_first_job_s_times_are_stacked(calls: DrawingCalls, tmp_path: Path) -> None:
    plot.plot([job(tmp_path / "one", row(1, 0.5), row(2, None))], tmp_path / "times.svg")
    assert calls.bars == {
        "invocation": ([0.5, 0.5], [0.0, 0.0]),
        "clients start": ([0.5, 0.5], [0.5, 0.5]),
        "training": ([0.5, 0.5], [1.0, 1.0]),
        "aggregation": ([0.5, 0.5], [1.5, 1.5]),
        "evaluation": ([0.25, 0.0], [2.0, 2.0]),
    }


def spec(folder: Path, **training: Any) -> None:
    tables = {"seed": training.pop("seed", 1), "training": training, "stop": {"target_accuracy": 0.75}}
    (folder / "job.toml").write_text(job_file.to_toml(job_file.from_dict(tables)))


def test_several_jobs_are_named_by_what_differs_and_seeds_share_a_curve(calls: DrawingCalls, tmp_path: Path) -> None:
    folders = []
    for size, seed, accuracy in ((8, 1, 0.25), (8, 2, 0.75), (16, 1, 0.5)):
        folders.append(job(tmp_path / f"{size}-{seed}", row(1, accuracy) | {"loss": 2 * accuracy}))
        spec(folders[-1], batch_size=size, seed=seed)
    plot.plot(folders, tmp_path / "sizes.png")
    accuracies, losses = calls.curves[:2], calls.curves[2:]
    assert accuracies == [("batch_size 8", [1], [0.5]), ("batch_size 16", [1], [0.5])]
    assert losses == [("batch_size 8", [1], [1.0]), ("batch_size 16", [1], [1.0])]
    left, middle, times = calls.axes
    assert left.get_title() == "Test accuracy (mean ± standard deviation)"
    assert [line.get_label() for line in left.lines][2:] == ["target 0.75"]
    assert middle.get_title() == "Test loss (mean ± standard deviation)"
    assert times.get_title() == "Mean time of a round"
    assert [label.get_text() for label in times.get_yticklabels()] == ["batch_size 8", "batch_size 16"]
    (band,) = left.collections
    assert band.get_datalim(left.transData).intervaly == pytest.approx([0.5 - 0.125**0.5, 0.5 + 0.125**0.5])


def test_the_range_is_that_of_the_values(calls: DrawingCalls, tmp_path: Path) -> None:
    plot.plot([job(tmp_path / "one", row(1, 0.9), row(2, 0.95))], tmp_path / "accuracy.png")
    low, high = calls.axes[0].get_ylim()
    assert (low > 0.8, high < 1.0) == (True, True)


def test_jobs_of_equal_names_are_both_drawn(calls: DrawingCalls, tmp_path: Path) -> None:
    folders = [job(tmp_path / name / "demo", row(1, accuracy)) for name, accuracy in (("a", 0.5), ("b", 0.75))]
    plot.plot(folders, tmp_path / "both.svg")
    assert calls.curves == [("demo", [1], [0.5]), ("demo", [1], [0.75])]


def test_a_job_has_its_folder_s_name_in_any_working_directory(
    calls: DrawingCalls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(job(tmp_path / "demo", row(1, 0.5)))
    plot.plot([Path()], Path("accuracy.png"))
    assert [name for name, _, _ in calls.curves] == ["demo"]


@pytest.mark.parametrize("rows", [(), (row(1, None),)])
def test_a_job_without_rounds_or_evaluations_is_drawn(rows: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    assert plot.plot([job(tmp_path / "one", *rows)], tmp_path / "none.png").read_bytes().startswith(PNG)


def test_a_folder_without_metrics_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"metrics.jsonl is missing: give the folder of a job"):
        plot.plot([tmp_path], tmp_path / "accuracy.png")


def test_damaged_metrics_are_an_error(tmp_path: Path) -> None:
    folder = job(tmp_path / "one", row(1, 0.5))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "accu')
    with pytest.raises(Missing, match=r"metrics.jsonl is damaged"):
        plot.plot([folder], tmp_path / "accuracy.png")


@pytest.mark.parametrize("name", ["accuracy.txt", "no/such/folder/accuracy.png"])
def test_a_picture_that_cant_be_written_is_an_error(name: str, tmp_path: Path) -> None:
    folder = job(tmp_path / "one", row(1, 0.5))
    with pytest.raises(BadOption, match="can't write the plot"):
        plot.plot([folder], tmp_path / name)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "fedkeeper.runs.picture", raising=False)
    with pytest.raises(Missing, match=r"matplotlib.figure is missing: pip install '.\[plot\]'"):
        plot.plot([job(tmp_path / "one")], tmp_path / "accuracy.png")
