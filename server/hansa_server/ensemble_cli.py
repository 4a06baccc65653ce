"""``hansa study ensemble``: models of one plan tested as one."""

from pathlib import Path
from typing import Annotated

import typer


def ensemble(
    study: Annotated[Path, typer.Argument(help="Folder of a simulated run, or study file with [simulation].")],
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders of models of that plan; the own models of a run's sites where left out."),
    ] = None,
    *,
    data: Annotated[str | None, typer.Option(help="Data in place of the plan's: a file or folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test the mean answer of several models at each simulated site: of the sites' own models, or of any you name."""
    from rich.console import Console  # noqa: PLC0415 - --help must not wait for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from hansa_common.metrics import MainFigure  # noqa: PLC0415
    from hansa_server.figures import NAMES, write  # noqa: PLC0415
    from hansa_server.results import Scores  # noqa: PLC0415
    from hansa_server.trials.ensemble import ask_about, evaluate_together, figure_of  # noqa: PLC0415

    question = ask_about(study, models or [], data)
    found = evaluate_together(question)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    figure: MainFigure = figure_of(question.plan)

    def written(scores: Scores | None) -> str:
        value = getattr(scores, figure) if scores is not None else None
        return "-" if value is None else write(figure, value)

    beside = {"common model": found.common, "own model": found.personal}
    shown = {title: scores for title, scores in beside.items() if scores}
    table = Table("site", "test examples", "ensemble", *shown, box=None)
    for name, scores in found.sites.items():
        others = (written(of.get(name)) for of in shown.values())
        table.add_row(Text(name), f"{scores.num_examples:,}", written(scores), *others)
    console = Console()
    console.print(f"{len(found.members)} models as one, {NAMES[figure]} on the sites' test splits", style="bold")
    console.print(table)
    whole, mean, lowest = written(found.weighted_mean), written(found.site_mean), written(found.worst_site)
    line = f"weighted mean {whole}, site mean {mean}, worst site {lowest} ({found.worst_site.site})"
    console.print(line, soft_wrap=True, markup=False, highlight=False)
