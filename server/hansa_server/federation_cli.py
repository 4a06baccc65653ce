"""``hansa server run``, ``resume``, ``stop``, ``status`` and ``logs``: the studies of a federation."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hansa_common.errors import StudyFailed, UsageError

if TYPE_CHECKING:  # --help must not wait for gRPC
    from hansa_server.federation.control import StudyReply

Folder = Annotated[Path, typer.Option(help="The federation's folder.", envvar="HANSA_SERVER")]
DEFAULT_FOLDER = Path("hansa-server")
_LOOK = 0.1  # seconds between looks at a study's progress
_ENDED = ("completed", "stopped", "failed")


def run(
    study: Annotated[Path | None, typer.Argument(help="Study file; the embedded study where left out.")] = None,
    *,
    folder: Folder = DEFAULT_FOLDER,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn.")] = None,
    app: Annotated[
        str | None, typer.Option(help="Run another Flower app: package.server:app,package.client:app.")
    ] = None,
    run_config: Annotated[str | None, typer.Option(help="Run configuration of --app: 'key=value key=value'.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
) -> None:
    """Propose a study to the sites, and run it once they have approved it."""
    from hansa_common.plan import read_plan  # noqa: PLC0415
    from hansa_server.cli import embedded_study, override  # noqa: PLC0415
    from hansa_server.federation.control import PlanRequest, StudyReply, call  # noqa: PLC0415
    from hansa_server.strategies import build_strategy  # noqa: PLC0415

    if app is not None:
        if study is not None or rounds is not None or seed is not None:
            raise UsageError("A study file, --rounds and --seed cannot go with --app.")
        text = _app_plan(app, run_config)
    else:
        if run_config is not None:
            raise UsageError("--run-config goes with --app, and only with it.")
        plan = override(read_plan(study or embedded_study()), rounds=rounds, seed=seed)
        strategy = build_strategy(plan.aggregation, plan.training)
        if plan.federation is not None:
            strategy.require(plan.federation.sites)
        text = plan.approved().model_dump_json()
    row = call(folder, "Propose", PlanRequest(plan=text), StudyReply)
    console = Console()
    _print(console, f"Proposed as {row.study} to {', '.join(row.sites)}.")
    _print(console, f"Each of them runs: hansa site review {row.study}, then hansa site approve {row.study}")
    if not detach:
        _watch(console, folder, row.study)


def resume(
    study: Annotated[str, typer.Argument(help="Id or name of a stopped or failed study.")],
    *,
    folder: Folder = DEFAULT_FOLDER,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
) -> None:
    """Go on with a study from its last whole round."""
    from hansa_server.federation.control import StudyReply, StudyRequest, call  # noqa: PLC0415

    row = call(folder, "Resume", StudyRequest(study=study), StudyReply)
    console = Console()
    _print(console, f"{row.study} goes on, attempt {row.attempt}.")
    if not detach:
        _watch(console, folder, row.study)


def stop(
    study: Annotated[str, typer.Argument(help="Id or name of a study.")], *, folder: Folder = DEFAULT_FOLDER
) -> None:
    """Stop a study; what it reached is kept."""
    from hansa_server.federation.control import StudyReply, StudyRequest, call  # noqa: PLC0415

    row = call(folder, "Stop", StudyRequest(study=study), StudyReply)
    _print(Console(), f"{row.study} is {row.state}. Continue with: hansa server resume {row.study} --folder {folder}")


def status(
    study: Annotated[str | None, typer.Argument(help="Id or name of a study; all where left out.")] = None,
    *,
    folder: Folder = DEFAULT_FOLDER,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and show its progress.")] = False,
) -> None:
    """Show the studies, or one of them."""
    from hansa_server.federation.control import Done, StudiesReply, StudyReply, StudyRequest, call  # noqa: PLC0415

    console = Console()
    if study is not None:
        row = call(folder, "Begin", StudyRequest(study=study), StudyReply)
        if follow:
            _watch(console, folder, row.study)
        else:
            _describe(console, folder, row)
        return
    rows = call(folder, "Studies", Done(), StudiesReply).studies
    if not rows:
        _print(console, "No study yet. Propose one: hansa server run STUDY.toml")
        return
    table = Table("study", "state", "approved", "refused", "silent", box=None, pad_edge=False)
    for row in rows:
        silent = [site for site in row.sites if site not in row.approved and site not in row.refused]
        table.add_row(
            *map(Text, (row.study, row.state, *(", ".join(names) for names in (row.approved, row.refused, silent))))
        )
    console.print(table)


def logs(
    study: Annotated[str | None, typer.Argument(help="Id or name of a study; the server where left out.")] = None,
    *,
    folder: Folder = DEFAULT_FOLDER,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and show new lines.")] = False,
) -> None:
    """Show the server's log, or that of a study's process."""
    from hansa_server.federation.folder import FederationFolder  # noqa: PLC0415

    opened = FederationFolder.open(folder)
    path = opened.log if study is None else opened.runs / _known_study(folder, study) / "study.log"
    for line in _tail(path, lines, follow=follow):
        typer.echo(line)


def _known_study(folder: Path, study: str) -> str:
    if (folder / "runs" / study).is_dir():
        return study
    from hansa_server.federation.control import StudyReply, StudyRequest, call  # noqa: PLC0415

    return call(folder, "Begin", StudyRequest(study=study), StudyReply).study


def _tail(path: Path, lines: int, *, follow: bool) -> Iterator[str]:
    if not path.exists():
        raise UsageError(f"{path} is not there yet.", advice="Nothing was logged.")
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file.read().splitlines()[-lines:]
        while follow:
            if line := file.readline():
                yield line.rstrip("\n")
            else:
                time.sleep(_LOOK)


def _app_plan(references: str, run_config: str | None) -> str:
    from hansa_common.app_plan import AppPlan  # noqa: PLC0415
    from hansa_server.engines.flower_app import parse_run_config  # noqa: PLC0415

    server, separator, client = references.partition(",")
    if not separator or ":" not in server or ":" not in client:
        raise UsageError(f"--app: found '{references}'.", advice="Allowed is package.server:app,package.client:app.")
    name = client.partition(":")[0].replace(".", "-").replace("_", "-").lower()
    config = parse_run_config(run_config or "")
    return AppPlan(name=name, server_app=server, client_app=client, run_config=config).model_dump_json()


def _describe(console: Console, folder: Path, row: "StudyReply") -> None:
    table = Table.grid(padding=(0, 2))
    silent = [site for site in row.sites if site not in row.approved and site not in row.refused]
    for name, value in (
        ("study", row.study),
        ("state", f"{row.state}{': ' + row.reason if row.reason else ''}"),
        ("plan", row.digest),
        ("proposed", datetime.fromtimestamp(row.proposed_at, UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("approved", ", ".join(row.approved) or "nobody yet"),
        ("refused", ", ".join(row.refused) or "nobody"),
        ("silent", ", ".join(silent) or "nobody"),
        ("needed", f"{row.needed} of {len(row.sites)} sites"),
        ("attempt", str(row.attempt)),
        ("run folder", str(folder / "runs" / row.study)),
    ):
        table.add_row(name, Text(value))
    console.print(table)


def _watch(console: Console, folder: Path, study: str) -> None:
    """Show a study as the simulation shows it, until it has ended; Ctrl-C leaves it running.

    Raises:
        StudyFailed: It was stopped or failed.
    """
    from hansa_server.federation.control import Control, StudyReply, StudyRequest  # noqa: PLC0415

    request = StudyRequest(study=study)
    control = Control(folder)
    try:
        row = _wait_for_answers(console, control, request)
        if row.state not in _ENDED or (folder / "runs" / study).is_dir():
            _show_progress(console, folder, control, row)
        row = control.call("Begin", request, StudyReply)
    except KeyboardInterrupt:
        _print(console, f"\n{study} goes on without this window. See it with: hansa server status {study} --follow")
        return
    finally:
        control.close()
    run_folder = folder / "runs" / study
    if row.state != "completed":
        report = f"\nSo far: {run_folder / 'report.html'}" if (run_folder / "report.html").exists() else ""
        raise StudyFailed(
            f"{study} {'has' if row.state == 'failed' else 'is'} {row.state}: {row.reason}",
            advice=f"Continue with: hansa server resume {study} --folder {folder}{report}",
        )
    _summarise(console, run_folder)
    if row.reason:
        _print(console, f"{row.reason}\nResume with: hansa server resume {row.study} --folder {folder}")


def _wait_for_answers(console: Console, control: Any, request: Any) -> "StudyReply":
    from hansa_server.federation.control import StudyReply  # noqa: PLC0415

    said: dict[str, str] = {}
    while True:
        row: StudyReply = control.call("Begin", request, StudyReply)
        for site in row.sites:
            answer = "approved it" if site in row.approved else "refused it" if site in row.refused else ""
            if answer and said.get(site) != answer:
                said[site] = answer
                left = len(row.sites) - len(row.approved) - len(row.refused)
                rest = f"{left} of {len(row.sites)} have not answered yet" if left else "all have answered"
                _print(console, f"{site} {answer}; {rest}.")
        if row.state != "proposed":
            return row
        time.sleep(_LOOK)


def _show_progress(console: Console, folder: Path, control: Any, row: "StudyReply") -> None:
    from hansa_common.app_plan import read_any  # noqa: PLC0415
    from hansa_common.plan import StudyPlan  # noqa: PLC0415
    from hansa_server.federation.control import StudyReply, StudyRequest  # noqa: PLC0415
    from hansa_server.federation.events import EventReader, show  # noqa: PLC0415
    from hansa_server.progress import Display, Plain  # noqa: PLC0415

    plan = read_any(row.plan)
    count = plan.rounds.count if isinstance(plan, StudyPlan) else 1
    observer = (Display if console.is_terminal else Plain)(console, count)
    reader = EventReader(folder / "runs" / row.study)
    request = StudyRequest(study=row.study)
    try:
        while True:
            ended = control.call("Begin", request, StudyReply).state in _ENDED
            for event in reader.new():
                show(event, observer)
            if ended:
                return
            time.sleep(_LOOK)
    finally:
        observer.close()


def _summarise(console: Console, run_folder: Path) -> None:
    from hansa_server.cli import summarise  # noqa: PLC0415
    from hansa_server.results import Results  # noqa: PLC0415

    metrics = run_folder / "metrics.json"
    if metrics.exists():
        summarise(console, Results.model_validate_json(metrics.read_text(encoding="utf-8")), run_folder)
    else:
        _print(console, f"Completed. Its log: {run_folder / 'study.log'}")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def mount(command: typer.Typer) -> None:
    """Add these to ``hansa server``."""
    for function in (run, resume, stop, status, logs):
        command.command()(function)
