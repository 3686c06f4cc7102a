"""Result lines to tables."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from innerloop import InputError, Scores, plots, report
from innerloop.experiments import catalogue


def row(
    seed: int = 0, means: tuple[float | None, ...] = (3.0, 0.6, 0.5, 0.4, 0.3, 0.3), name: str = "maml/sinusoid", **settings: object
) -> dict:
    case = {"mean": means, "interval": [None if m is None else 0.05 for m in means], "sd": [1.0] * len(means), "rate": 0.01, "tasks": 600}
    case |= {"median": [0.1] * len(means), "diverged": [int(m is None) for m in means]}
    return {
        "experiment": name,
        "quick": False,
        "settings": {**asdict(catalogue()[name].settings), "seed": seed, **settings},
        "claims": {"5-shot": {"1": 0.67, "5": 0.38}},
        "cases": {"5-shot": case, "10-shot": case},
        "engine": {"plan": "vmap"},
        "versions": {"torch": "2"},
        "machine": {"cpu": "a", "threads": 2},
        "commit": "abc",
        "seconds": 1.0,
        "peak_memory_mb": 1,
    }


def write(folder: Path, *rows: dict) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def entries(folder: Path) -> list[report.Entry]:
    return report.entries(report.read_rows([folder]), catalogue())


def entries_of(*rows: dict) -> list[report.Entry]:
    return report.entries(rows, catalogue())


def test_seeds_are_averaged_and_the_paper_stands_beside(tmp_path: Path) -> None:
    listed = entries(write(tmp_path, row(0), row(1, (3.0, 0.8, 0.5, 0.4, 0.3, 0.5))))
    assert [(e.case, len(e.runs)) for e in listed] == [("5-shot", 2), ("10-shot", 2)]
    assert report.markdown(listed).splitlines()[2:] == [
        "| `maml/sinusoid` | MAML, α = 0.01 | 5-shot | 1 / 5 | 0.67 / 0.38 | 0.70 ± 0.05 / 0.40 ± 0.05 | 2: 0.60 … 0.80 / 0.30 … 0.50 "
        "| within the interval at steps 1, 5 |"
    ]


def test_how_far_seeds_differ_stands_beside_their_number() -> None:
    [entry, _] = entries_of(row(0, (3.0, 2e11, 0.5, 0.4, 0.3, 0.5)), row(1, (3.0, 0.6, 0.5, 0.4, 0.3, None)), row(2))
    assert "| 3: 0.60 … 2e+11 / 0.30 … diverged |" in report.markdown([entry])


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((3.0, 0.67, 0.0, 0.0, 0.0, 0.38), "met"),
        ((3.0, 0.71, 0.0, 0.0, 0.0, 0.38), "within the interval at step 1"),
        ((3.0, 0.73, 0.0, 0.0, 0.0, 0.38), "missed at step 1"),
        ((3.0, 0.73, 0.0, 0.0, 0.0, 0.39), "missed at step 1, within the interval at step 5"),
        ((3.0, 0.71, 0.0, 0.0, 0.0, None), "missed at steps 1, 5; 1 of 600 tasks diverged, medians 0.10 / 0.10"),
    ],
)
def test_the_verdict_is_the_comparison_with_the_paper(means: tuple, verdict: str, tmp_path: Path) -> None:
    assert entries(write(tmp_path, row(0, means)))[0].verdict == verdict


@pytest.mark.parametrize(("accuracy", "verdict"), [(98.7, "met"), (98.5, "within the interval at step 3"), (98.2, "missed at step 3")])
def test_more_accuracy_is_better(accuracy: float, verdict: str) -> None:
    case = {"mean": [20.0, 90.0, 95.0, accuracy], "interval": [0.3] * 4, "median": [95.0] * 4, "diverged": [0] * 4, "tasks": 600}
    claims = {"5-way 1-shot": {"3": 98.7}}
    [entry] = report.entries([row(name="maml/omniglot-5w1s") | {"cases": {"5-way 1-shot": case}, "claims": claims}], catalogue())
    assert entry.verdict == verdict
    head, _, line = report.markdown([entry, *entries_of(row())]).splitlines()[:3]
    assert "accuracy, %" in head
    assert f"| 3 | 98.70 ± 0.40 | {accuracy:.2f} ± 0.30 | 1 | {verdict} |" in line
    assert report.markdown([entry, *entries_of(row())]).count("| experiment |") == 2, "a table for each metric"
    [told] = report.entries(entry.runs, {entry.experiment: replace(catalogue()[entry.experiment], comparable=False)})
    assert told.verdict == "not comparable", "though the paper's number stands there"
    assert told.claim == entry.claim


def test_a_mean_with_a_diverged_task_is_said_to_be_so(tmp_path: Path) -> None:
    assert "0.60 ± 0.05 / diverged" in report.markdown(entries(write(tmp_path, row(0, (3.0, 0.6, 0.0, 0.0, 0.0, None)))))


def test_curves_are_drawn_where_a_mean_is_infinite_too(tmp_path: Path) -> None:
    listed = entries(write(tmp_path, row(0), row(0, (3.0, 0.6, None, None), name="maml/sinusoid-pretrained")))
    figure = plots.curves(listed)
    assert [axes.get_title() for axes in figure.axes] == ["5-shot", "10-shot"]
    lines = {str(line.get_label()): torch.tensor(line.get_ydata()).tolist() for line in figure.axes[0].lines}
    assert lines["pretraining on all tasks: median, where the mean diverges"] == pytest.approx([0.1] * 4)
    assert lines["MAML, α = 0.01"] == pytest.approx([3.0, 0.6, 0.5, 0.4, 0.3, 0.3])
    assert plots.png(figure).startswith(b"\x89PNG")


def test_curves_are_drawn_where_every_mean_is_infinite() -> None:
    [panel, _] = plots.curves(entries_of(row(means=(None,) * 6))).axes
    assert {str(line.get_label()): torch.tensor(line.get_ydata()).tolist() for line in panel.lines}[
        "MAML, α = 0.01: median, where the mean diverges"
    ] == pytest.approx([0.1] * 6)
    alone = entries_of({**row(means=(None,) * 6), "claims": {}})
    assert plots.png(plots.curves(alone)).startswith(b"\x89PNG")


def test_long_names_are_drawn_inside_the_figure() -> None:
    listed = entries_of(row(), row(hidden=20, rate=0.02, outer_rate=0.002, meta_batch=50), row(hidden=30, rate=0.03, meta_batch=99))
    figure = plots.curves(listed)
    plots.png(figure)
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.axes[0].get_ylabel() == "MSE  (× the paper's number)"
    assert plots.curves(entries_of({**row(), "claims": {}})).axes[0].get_ylabel() == "MSE"


def test_steps_without_a_claim_are_a_few_and_the_last() -> None:
    for taken, steps in ((1, [0]), (2, [1]), (4, [1, 3]), (11, [1, 5, 10]), (51, [1, 5, 10, 50])):
        [entry, _] = entries_of({**row(means=(1.0,) * taken), "claims": {}})
        assert entry.steps == steps


@pytest.mark.parametrize(("first", "scale"), [(3.0, "linear"), (30.0, "log")])
def test_errors_of_different_sizes_are_drawn_by_their_logarithms(first: float, scale: str) -> None:
    figure = plots.curves(entries_of(row(means=(first, 2.0, None, 0.5, 0.4, 0.3))))
    assert {panel.get_yscale() for panel in figure.axes} == {scale}
    for panel in figure.axes:
        low, high = panel.get_ylim()
        assert low < 0.3 < first < high


def test_training_is_drawn_against_iterations() -> None:
    rows = [{"iteration": 0, "engine": "vmap"}, {"iteration": 100, "loss": 2.0}, {"iteration": 200, "loss": 1.0}]
    [panel] = plots.training([*rows, {"iteration": 200, "val": 1.5}], "MAML").axes
    drawn = {str(line.get_label()): torch.tensor(line.get_xydata()).tolist() for line in panel.lines}
    assert drawn == {"meta-batches": [[100, 2.0], [200, 1.0]], "validation tasks": [[200, 1.5]]}


def test_other_settings_stand_in_a_row_of_their_own(tmp_path: Path) -> None:
    listed = entries(write(tmp_path, row(0), row(0, rate=0.5, iterations=9)))
    assert [e.changed for e in report.headline(listed)] == ["", "iterations 9, rate 0.5"]
    assert "`maml/sinusoid` (iterations 9, rate 0.5)" in report.markdown(listed)


def test_settings_as_they_are_in_python_are_those_of_the_file(tmp_path: Path) -> None:
    assert report.entries([row()], catalogue())[0].changed == ""


def test_the_last_of_equal_lines_counts_and_quick_ones_do_not(tmp_path: Path) -> None:
    rows = report.read_rows([write(tmp_path, row(0), row(0, (1.0,) * 6), {**row(2), "quick": True})])
    assert [r["cases"]["5-shot"]["mean"][0] for r in rows] == [1.0]


def test_the_committed_results_are_result_lines_of_listed_experiments() -> None:
    rows = report.read_rows([Path(__file__).parent.parent / "results"])
    assert {r["experiment"] for r in rows} <= set(catalogue())
    for r in rows:
        assert {case: {int(k): v for k, v in claim.items()} for case, claim in r["claims"].items()} == catalogue()[r["experiment"]].claims


def test_a_readme_shows_the_longest_run_of_what_has_a_claim(tmp_path: Path) -> None:
    longer, shorter = row(iterations=9), row(iterations=8)
    silent = row(name="maml/sinusoid-oracle") | {"claims": {}}
    listed = entries(write(tmp_path, shorter, longer, silent))
    assert len(report.markdown(listed).splitlines()) == 5
    [line] = report.markdown(listed, longest=True).splitlines()[2:]
    assert "iterations 9" in line


@pytest.mark.parametrize("name", ["README.md", "results/README.md"])
def test_the_table_in_the_readme_is_that_of_the_committed_results(name: str, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    copy = tmp_path / "README.md"
    copy.write_text((root / name).read_text())
    report.into_readme(copy, entries(root / "results"))
    assert copy.read_text() == (root / name).read_text()


def test_a_readme_shows_the_experiments_that_its_mark_names(tmp_path: Path) -> None:
    listed = entries(write(tmp_path, row(), row(name="maml/sinusoid@release")))
    file, mark = tmp_path / "README.md", "<!-- results of {}: written by `innerloop report --readme` -->\nold\n" + report.END + "\nafter\n"
    file.write_text(mark.format("maml/sinusoid@release"))
    report.into_readme(file, listed)
    first, *table, last, after = file.read_text().splitlines()
    assert (first, last, after) == (mark.format("maml/sinusoid@release").splitlines()[0], report.END, "after")
    assert [line.split("`")[1] for line in table[2:]] == ["maml/sinusoid@release"]
    file.write_text(mark.format("maml/sinusoid maml/sinusoid@releas"))
    with pytest.raises(InputError, match=r"shows maml/sinusoid@releas, of which there is no run; .*maml/sinusoid@release"):
        report.into_readme(file, listed)


def test_a_readme_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match="has no place for the table"):
        report.into_readme(tmp_path / "README.md", [])
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_no_result_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row()) + "\n{}\n")
    with pytest.raises(InputError, match=r"line 2 of .*rows.jsonl is no result line"):
        report.read_rows([tmp_path])


def test_the_page_holds_everything_itself(tmp_path: Path) -> None:
    page = report.page(entries(write(tmp_path, row(0), row(1))), {"a <caption>": b"\x89PNG"})
    assert "src='data:image/png;base64,iVBORw=='" in page
    assert "a &lt;caption&gt;" in page
    for outside in ("http:", "https:", "<script", "<link"):
        assert outside not in page
    assert page.count("<td>600</td>") == 2


def test_seeds_that_were_scored_on_different_tasks_are_not_averaged() -> None:
    three, others, two = Scores(torch.ones(3, 2), "3 tasks"), Scores(torch.ones(3, 2), "3 others"), Scores(torch.ones(2, 2), "2 tasks")
    assert "1.00 ± 0.00" in report.comparison("a", {"one": {"seed0": three, "seed1": three}, "two": {"seed0": three}})
    for odd in (others, two):
        for runs in ({"one": {"seed0": three, "seed1": odd}}, {"two": {"seed0": three}, "one": {"seed0": three, "seed1": odd}}):
            runs = {"base": {"seed0": three, "seed1": three}, **runs}
            with pytest.raises(InputError, match=f"{odd.tasks} for seed1 in one, 3 tasks for seed0 in base; run both with"):
                report.comparison("a", runs)


def test_means_beyond_a_million_are_shown_by_their_size() -> None:
    assert report.shown(0.1234, 0.05, digits=3) == "0.123 ± 0.050"
    assert report.shown(11455600.0, 22452900.0, digits=3) == "1e+07 ± 2e+07"
    assert report.shown(2.0, float("inf")) == "diverged"
