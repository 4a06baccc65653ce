"""``hansa audit``: what a study gives away, measured on this machine."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hansa_common.errors import UsageError
from hansa_common.plan import StudyPlan

_STEPS = 4  # lines of progress for each attack

app = typer.Typer(no_args_is_help=True, help="Measure what a study gives away, on this machine.")


@app.callback()
def _group() -> None:
    """Measure what a study gives away, on this machine."""


@app.command()
def privacy(
    study: Annotated[
        Path | None,
        typer.Argument(help="Study file with [simulation]; the embedded study on handwritten digits where left out."),
    ] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for audit.html and audit.json; runs/<study>-audit-<time>.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Run only so many of the study's rounds: faster, and finds less.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Attack a study's updates, without its protection and with it, and write a page on what was found."""
    from hansa_common.files import storage, write_whole  # noqa: PLC0415 - --help must not wait for it
    from hansa_common.plan import read_plan  # noqa: PLC0415
    from hansa_server.cli import embedded_study  # noqa: PLC0415
    from hansa_server.report.leakage_page import outcome, render, rows  # noqa: PLC0415
    from hansa_server.simulation import measure_leaks  # noqa: PLC0415

    plan = read_plan(study or embedded_study())
    folder = _folder(plan, out)
    console = Console(quiet=quiet)
    leakage, pictures = measure_leaks(plan, rounds=rounds, tell=_Progress(console).tell)
    with storage(folder, "write", advice="Check --out."):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "audit.json", (leakage.model_dump_json(indent=2) + "\n").encode())
    write_whole(folder / "audit.html", render(leakage, pictures).encode(), mode=0o600)
    console.print(outcome(leakage), style="bold")
    for row in rows(leakage):
        console.print(f"{row.name}: {row.unprotected} without, {row.protected} with", soft_wrap=True, highlight=False)
    console.print(f"Page: {folder / 'audit.html'}", soft_wrap=True, markup=False, highlight=False)


class _Progress:
    """A line for each part of an attack that is done."""

    def __init__(self, console: Console) -> None:
        self._console, self._started = console, time.monotonic()
        self._last = ("", -1)

    def tell(self, what: str, share: float) -> None:
        """Say how far an attack is."""
        now = (what, int(share * _STEPS + 1e-9))
        if now != self._last and now[1] > 0:
            seconds = time.monotonic() - self._started
            self._console.print(f"{what}: {share:.0%} ({seconds:.0f} s)", highlight=False)
        self._last = now


def _folder(plan: StudyPlan, out: Path | None) -> Path:
    """Return where to write: ``out``, or ``runs/<study>-audit-<UTC time>``."""
    folder = out or Path("runs") / f"{plan.name}-audit-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} has something in it already.", advice="Name a new folder with --out.")
    return folder
