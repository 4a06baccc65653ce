"""The server's sub-commands of ``hansa``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hansa_common.errors import StudyFailed, UsageError
from hansa_common.plan import StudyPlan, parse_plan, read_plan
from hansa_server.results import Final, Results, Scores

_SIMULATION = "What to simulate"
_MACHINE = "Where it runs"
_OUTPUT = "What it writes"


def simulate(
    study: Annotated[
        Path | None, typer.Argument(help="Study file; the embedded study on handwritten digits where left out.")
    ] = None,
    *,
    sites: Annotated[int | None, typer.Option(min=1, help="Number of sites.", rich_help_panel=_SIMULATION)] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            help="Split of the data: iid, dirichlet:ALPHA, shards:K, quantity:ALPHA, column:NAME.",
            rich_help_panel=_SIMULATION,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Path of the data, instead of the plan's.", rich_help_panel=_SIMULATION)
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds.", rich_help_panel=_SIMULATION)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn.", rich_help_panel=_SIMULATION)] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="A site that only tests the last model, on all its data.", rich_help_panel=_SIMULATION
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Also train each site alone and all data pooled.", rich_help_panel=_SIMULATION
        ),
    ] = False,
    app: Annotated[
        str | None,
        typer.Option(
            help="Run another Flower app instead: package.server:app,package.client:app.", rich_help_panel=_SIMULATION
        ),
    ] = None,
    run_config: Annotated[
        str | None,
        typer.Option(help="Run configuration of --app: 'key=value key=value'.", rich_help_panel=_SIMULATION),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="What carries the messages.", rich_help_panel=_MACHINE)
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Sites at a time; one for each core.", rich_help_panel=_MACHINE)
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Existing Ray cluster, as host:port or auto.", rich_help_panel=_MACHINE)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/<study>-<time>.", rich_help_panel=_OUTPUT)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder.", rich_help_panel=_OUTPUT)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Run a study on this machine: every site simulated, everything else as in a real federation."""
    from hansa_server.engines.engine import Machine  # noqa: PLC0415
    from hansa_server.engines.flower_app import run_flower_app  # noqa: PLC0415 - --help must not wait for flwr
    from hansa_server.progress import Display, Plain, Quiet  # noqa: PLC0415
    from hansa_server.simulation import check, new_folder  # noqa: PLC0415
    from hansa_server.simulation import simulate as run_study  # noqa: PLC0415
    from hansa_server.store import RunFolder  # noqa: PLC0415

    given = {
        "a study file": study,
        "--sites": sites,
        "--partition": partition,
        "--data": data,
        "--rounds": rounds,
        "--seed": seed,
        "--leave-out": leave_out,
        "--out": out,
    }
    if app is None and run_config is not None:
        raise UsageError("--run-config goes with --app, and only with it.")
    if engine != "ray" and ray_address is not None:
        raise UsageError("--ray-address goes with --engine ray, and only with it.")
    if app is not None:
        if engine != "local":
            raise UsageError("--app runs on engine local only.")
        _refuse("--app", given | {"--baselines": baselines or None, "--resume": resume}, allowed=frozenset({"--sites"}))
        run_flower_app(app, nodes=sites or 2, workers=workers, run_config=run_config)
        return
    if resume is not None:
        _refuse("--resume", given)
        folder = RunFolder.open(resume)
        plan = folder.load_plan()
    else:
        plan = override(
            read_plan(study or embedded_study()),
            sites=sites,
            partition=partition,
            data=data,
            rounds=rounds,
            seed=seed,
            leave_out=leave_out,
        )
        check(plan)
        folder = new_folder(plan, out)
        folder.save_plan(plan)
    console = Console(quiet=quiet)
    show = Display if console.is_terminal else Plain
    observer = Quiet() if quiet else show(console, plan.rounds.count, folder.rounds_done())
    machine = Machine(engine=engine, workers=workers, ray_address=ray_address)
    try:
        results = run_study(plan, folder, machine=machine, observer=observer, baselines=baselines)
    except StudyFailed as error:
        report = folder.path / "report.html"
        again = f"hansa simulate --resume {folder.path}{' --baselines' if baselines else ''}"
        raise type(error)(
            error.message,
            advice=f"{error.advice}\nContinue with: {again}\nSo far: {report}",
        ) from None
    finally:
        observer.close()
        folder.close()
    summarise(console, results, folder.path)


def override(
    plan: StudyPlan,
    *,
    sites: int | None = None,
    partition: str | None = None,
    data: Path | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    leave_out: str | None = None,
) -> StudyPlan:
    """Return the plan with what the command line changes, checked as a whole again.

    Raises:
        PlanError: The changed plan is not valid.
        UsageError: An option is for simulations and the plan has none.
    """
    changes = plan.model_dump(exclude_none=True)
    if rounds is not None:
        changes["rounds"]["count"] = rounds
    if seed is not None:
        changes["seed"] = seed
    simulated = {"sites": sites, "partition": partition, "leave_out": leave_out}
    if data is not None or any(value is not None for value in simulated.values()):
        if plan.simulation is None:
            raise UsageError(
                "--sites, --partition, --data and --leave-out are for simulations; the plan has no [simulation]."
            )
        changes["simulation"] |= {key: value for key, value in simulated.items() if value is not None}
        if data is not None:
            changes["simulation"]["data"]["path"] = str(data.resolve())
        if (sites is not None and sites != len(plan.simulation.names)) or (partition or "").startswith("column:"):
            changes["simulation"]["names"] = ()  # names of the study file's own sites
        if (partition or "").startswith("column:") and sites is None:
            changes["simulation"].pop("sites", None)
    return parse_plan(changes, origin="command line")


def embedded_study() -> Path:
    """Return the file of the study that runs where none is named."""
    packaged = Path(__file__).parent / "studies" / "digits.toml"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "deploy" / "studies" / "digits.toml"


def _refuse(option: str, given: Mapping[str, object], *, allowed: frozenset[str] = frozenset()) -> None:
    """Refuse options that would be ignored."""
    extra = [name for name, value in given.items() if value is not None and name not in allowed]
    if extra:
        raise UsageError(f"{', '.join(extra)} cannot go with {option}.", advice="Leave out one or the other.")


def summarise(console: Console, results: Results, folder: Path) -> None:
    """Print the four figures, or what protection leaves of them, and where the report is."""
    from hansa_server.report import columns, protection  # noqa: PLC0415 - jinja2 is slow, and --help must not wait for it

    final = results.final
    if final is None:
        return
    table = Table.grid(padding=(0, 2))
    for name, figure, note in _closing_figures(results, final):
        table.add_row(name, figure, Text(note))
    noised = ", counted with noise" if protection.has_noised_counts(results) else ""
    name = columns.main_name(results)
    console.print(f"{name[0].upper()}{name[1:]} on the sites' test splits{noised}", style="bold")
    console.print(table)
    console.print(f"Report: {folder / 'report.html'}", soft_wrap=True, markup=False, highlight=False)


def _closing_figures(results: Results, final: Final) -> Iterator[tuple[str, str, str]]:
    """Yield name, figure and note of what is known; with protection that is less."""
    from hansa_server.report import columns, protection  # noqa: PLC0415 - see summarise

    whole = final.weighted_mean
    yield (
        "weighted mean",
        _written(results, whole),
        "" if whole else "no counts of right and wrong answers are known",
    )
    if protection.keeps_site_figures(results):
        yield "site mean, worst site", "-", protection.why_kept(results)
    else:
        yield "site mean", _written(results, final.site_mean), ""
        yield (
            "worst site",
            _written(results, final.worst_site),
            final.worst_site.site if final.worst_site else "",
        )
        against = final.worst_site_against_local
        is_simulated = results.engine != "federation"
        yield (
            "worst site against its own model",
            f"{columns.written_gain(against)} {columns.unit_of_gain(results, against)}".rstrip()
            if against
            else "not measured",
            f"{against.site}; + is better"
            if against
            else "run with --baselines"
            if results.baselines is None and is_simulated
            else "",
        )
    if final.personal is not None:
        yield "sites' own models", _written(results, final.personal.site_mean), f"site mean; {final.personal.method}"
    if final.ensemble is not None:
        yield (
            f"ensemble of the last {len(final.ensemble.rounds)}",
            _written(results, final.ensemble.weighted_mean),
            "weighted mean; files: versions",
        )
    if final.left_out is not None:
        yield "left-out site", _written(results, final.left_out), final.left_out.site
    if final.coordinator is not None and protection.is_protected(results):
        yield "coordinator's own test set", _written(results, final.coordinator), ""
    noise = protection.noise_of(results)
    if noise is not None and noise.epsilon is not None:
        yield "epsilon spent", protection.spent(noise.epsilon), f"of {noise.epsilon_budget:g}, delta {noise.delta:g}"
    elif noise is not None:
        yield "epsilon, at most", f"{noise.epsilon_budget:g}", f"delta {noise.delta:g}; each site's ledger knows more"


def _written(results: Results, scores: Scores | None) -> str:
    from hansa_server.report import columns  # noqa: PLC0415 - see summarise

    return "-" if columns.main_value(results, scores) is None else columns.written_main(results, scores)
