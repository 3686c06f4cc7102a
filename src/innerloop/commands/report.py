"""``innerloop report``: all result lines as tables and figures."""

from dataclasses import dataclass
from pathlib import Path

from innerloop import checkpoint, experiments, report
from innerloop.commands.words import check_file, write
from innerloop.errors import InputError


@dataclass(frozen=True)
class Report:
    """All result lines as a table: paper beside ours. Markdown on the screen, a page with figures as HTML."""

    results: tuple[Path, ...] = (Path("results"), Path("runs"))
    """files of result lines, or folders of them"""
    html: Path | None = None
    """write one self-contained page here"""
    readme: tuple[Path, ...] = ()
    """put a table of the longest runs, with what the paper says, between the marks of these files"""
    figures: Path | None = None
    """write the figure over all experiments into this folder, one a metric"""


def report_(given: Report) -> None:
    check_file(given.html, "--html")
    places = [place for place in given.results if place.exists()]
    absent = [str(place) for place in given.results if place not in places]
    if places and absent and given.results != Report().results:
        raise InputError(f"there is no {', '.join(absent)}; check the names of --results")
    listed = report.entries(report.read_rows(places), experiments.catalogue())
    if not listed:
        quick = len(report.read_rows(places, quick=True))
        raise InputError(
            f"no result lines in {', '.join(map(str, given.results))}"
            + (f" but of {quick} quick run{'s' * (quick > 1)}, left out as they only show that it runs" if quick else "")
            + f"; innerloop run {'without --quick ' * (quick > 0)}makes some, or name a folder with --results"
        )
    table = report.markdown(listed)
    print(table)
    for file in given.readme:
        report.into_readme(file, listed)
    if not (given.html or given.figures):
        return
    from innerloop import plots

    of = {e.metric.name: [other for other in listed if other.metric == e.metric] for e in listed}
    curves = {name: plots.png(plots.curves(shown)) for name, shown in of.items()}
    if given.figures:
        for name, figure in curves.items():
            checkpoint.write_whole(checkpoint.writable(given.figures) / f"curves-{name.split(',')[0].lower()}.png", figure)
    if given.html:
        figures = {
            f"{name} against gradient steps, with 95 % intervals over tasks; crosses are the paper's numbers": figure
            for name, figure in curves.items()
        }
        for place in places:
            for kind, pattern in (("Training", "training.png"), ("Fits", "*fits*.png")):
                for file in sorted(place.rglob(pattern)) if place.is_dir() else []:
                    figures[f"{kind}: {file.relative_to(place)}"] = file.read_bytes()
        write(given.html, report.page(listed, figures))
        print(f"\n{given.html} is written")
