"""``hansa study``: what can be said of a study file before it is run; and where simulations run, several side by side.

The commands of the entry points' group ``hansa.study`` are the server's: a site's installation does not show them.
"""

import json
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hansa_common.errors import UsageError

if TYPE_CHECKING:  # --help must not wait for numpy
    from hansa_common.forecast import Forecast
    from hansa_common.plan import StudyPlan

app = typer.Typer(no_args_is_help=True, help="A study file, before it is run; several, side by side.")


@app.callback()
def _root() -> None:
    """A study file, before it is run; several, side by side."""


@app.command()
def budget(
    study: Annotated[Path, typer.Argument(help="Study file.")],
    *,
    target_epsilon: Annotated[
        float | None, typer.Option(help="Epsilon that must not be exceeded; the plan's where left out, or 8.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="The plan's where left out, or the largest power of ten below 1/n.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Training examples at each site, as 30,199; the simulation's where left out.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="The one that is planned; the plan's where left out, or 1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what differential privacy will cost at each site, and whether a useful model is to be expected."""
    from hansa_common.forecast import Effort, default_delta, forecast  # noqa: PLC0415
    from hansa_common.plan import read_plan  # noqa: PLC0415

    plan = read_plan(study)
    noised = plan.privacy.differential
    if noised is not None and noised.kind != "example":
        _show_site_level(plan, as_json=as_json)
        return
    if noised is not None:
        target_epsilon, delta = target_epsilon or noised.epsilon, delta or noised.delta
        noise_multiplier = noise_multiplier or noised.noise_multiplier
    target_epsilon, noise_multiplier = target_epsilon or 8.0, noise_multiplier or 1.0
    sites = _read_sizes(sizes) if sizes is not None else _find_sizes(plan)
    effort = Effort(
        batch_size=plan.training.batch_size,
        rounds=plan.rounds.count,
        steps=plan.training.steps,
        epochs=plan.training.epochs,
    )
    chosen = default_delta(list(sites.values())) if delta is None else delta
    by_size = {
        size: forecast(size, effort, target=target_epsilon, delta=chosen, planned=noise_multiplier)
        for size in sorted(set(sites.values()))
    }
    if as_json:
        typer.echo(json.dumps([_values(name, by_size[size]) for name, size in sites.items()], indent=2))
        return
    console = Console()
    for size, found in by_size.items():
        _show(console, [name for name, own in sites.items() if own == size], found)


def _show_site_level(plan: "StudyPlan", *, as_json: bool) -> None:
    """Say what hiding whole sites costs: it depends on rounds and noise only, not on the sites' sizes."""
    from hansa_common.forecast import site_level  # noqa: PLC0415

    found = site_level(plan)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"sentences": found.sentences()}, indent=2))
        return
    for sentence in found.sentences():
        typer.echo(sentence)


def _show(console: Console, names: list[str], found: "Forecast") -> None:
    console.print(
        Text(f"{', '.join(names)}: {found.size:,} training examples", style="bold"),
        Text(
            f"{found.rounds:,} rounds of {found.steps_per_round:,} steps, batches of {found.batch_size:,}, "
            f"delta {found.delta:g}"
        ),
        sep="\n",
    )
    batches = sorted({cell.batch_size for cell in found.cells})
    table = Table("noise multiplier", *(f"epsilon, batch {batch:,}" for batch in batches), box=None, pad_edge=False)
    for multiplier in sorted({cell.noise_multiplier for cell in found.cells}):
        row = [cell for cell in found.cells if cell.noise_multiplier == multiplier]
        cells = [_cell(cell.epsilon, found.target) for cell in sorted(row, key=lambda cell: cell.batch_size)]
        table.add_row(f"{multiplier:g}", *cells)
    console.print(table)
    for sentence in found.sentences():
        console.print(Text(sentence), soft_wrap=True)
    console.print()


def _cell(epsilon: float, target: float) -> Text:
    text = f"{epsilon:.3f}" if epsilon < 100.0 else "above 100"  # noqa: PLR2004 - which says nothing any more
    return Text(text, style="green" if epsilon <= target else "dim")


def _values(name: str, found: "Forecast") -> dict[str, Any]:
    judged = {"noise": found.noise, "is_useful": found.is_useful, "is_hopeless": found.is_hopeless}
    return {"site": name} | asdict(found) | judged | {"sentences": found.sentences()}


def _read_sizes(text: str) -> dict[str, int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--sizes: found '{text}'.", advice="Allowed are numbers of at least 1, as in 30,199.")
    return {f"site of {number:,}": number for number in numbers}


def _find_sizes(plan: "StudyPlan") -> dict[str, int]:
    """Return each simulated site's training examples; without a simulation those of the smallest site allowed."""
    for entry in entry_points(group="hansa.site", name="training_sizes") if plan.simulation else ():
        found: dict[str, int] = entry.load()(plan)
        return found
    share = 1.0 - plan.evaluation.validation - plan.evaluation.test
    return {"the smallest site that the plan allows": max(1, int(share * plan.data.minimum_examples))}


for _entry in sorted(entry_points(group="hansa.study"), key=lambda entry: entry.name):
    app.command(_entry.name)(_entry.load())
