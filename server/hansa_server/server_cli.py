"""``hansa server``: a federation's coordinator."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hansa_common.errors import Unreachable, UsageError
from hansa_server import authority_cli, federation_cli
from hansa_server.authority_cli import VARIABLE, PassphraseFile
from hansa_server.federation_cli import DEFAULT_FOLDER, Folder

if TYPE_CHECKING:  # --help must not wait for gRPC and SQLAlchemy
    from hansa_common.roster import SignedBinding, SignedRoster

app = typer.Typer(no_args_is_help=True, help="A federation's coordinator: who belongs to it, and its studies.")

Site = Annotated[str, typer.Argument(help="Name of the site.")]


@app.command()
def init(
    *,
    name: Annotated[str, typer.Option(help="Name of the federation: lower-case letters, digits, hyphens.")],
    host: Annotated[str, typer.Option(help="Name or address at which sites reach this machine.")],
    folder: Folder = DEFAULT_FOLDER,
    founder: Annotated[
        Path | None, typer.Option(help="organisation.json of the founding organisation, whose key stays elsewhere.")
    ] = None,
    founder_is_coordinator: Annotated[
        bool,
        typer.Option("--founder-is-coordinator", help="Keep the founder's key on this machine; every site is told."),
    ] = False,
    enrolment_port: Annotated[int, typer.Option(help="Port for joining.")] = 8442,
    federation_port: Annotated[int, typer.Option(help="Port for everything else.")] = 8443,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a federation's folder: certificate authority, settings, database, and the first roster."""
    from hansa_common.organisation import VARIABLE as FOUNDERS  # noqa: PLC0415
    from hansa_common.organisation import check_passphrase, create_organisation, read_passphrase  # noqa: PLC0415
    from hansa_common.settings import parse  # noqa: PLC0415
    from hansa_server.federation.founding import found, request_roster  # noqa: PLC0415
    from hansa_server.federation.settings import ServerSettings  # noqa: PLC0415

    if (founder is None) != founder_is_coordinator:
        raise UsageError(
            "Who founds the federation?",
            advice="Give --founder organisation.json of 'hansa org init', or --founder-is-coordinator.",
        )
    values = {"name": name, "host": host, "enrolment_port": enrolment_port, "federation_port": federation_port}
    settings = parse(ServerSettings, values, origin="command line")
    passphrase = read_passphrase(
        passphrase_file, variable=VARIABLE, prompt="Passphrase for the certificate authority's key", confirm=True
    )
    # 'hansa org admit' looks for the founder's passphrase in the variable of any organisation's
    own_passphrase = os.environ.get(FOUNDERS, "").encode() or passphrase
    if founder is None:
        check_passphrase(own_passphrase)  # before there is a folder
    made = found(folder, settings, passphrase)
    if founder is not None:
        request = request_roster(made, founder)
        typer.echo(f"Made {folder}. The founder signs: hansa org sign {request}")
        typer.echo("Then: hansa server roster FILE, and hansa server start")
        return
    own = create_organisation(made.founder, f"{name} coordinator", own_passphrase)
    request_roster(made, made.founder / "organisation.json", is_coordinator=True, key=own.unlock(own_passphrase))
    which = "the same passphrase" if own_passphrase == passphrase else f"the passphrase in {FOUNDERS}"
    typer.echo(f"Made {folder}; its founder's key lies in {made.founder}, with {which}.")
    typer.echo(f"Next: hansa server start --folder {folder}")


@app.command()
def roster(
    file: Annotated[Path, typer.Argument(help="A roster that the founder signed.")],
    *,
    folder: Folder = DEFAULT_FOLDER,
    force: Annotated[
        bool, typer.Option("--force", help="Also where it retires an authority that sites still have certificates of.")
    ] = False,
) -> None:
    """Put a signed roster into force."""
    from hansa_common.organisation import read_document  # noqa: PLC0415
    from hansa_common.roster import SignedRoster  # noqa: PLC0415

    signed = read_document(file, SignedRoster)
    install_roster(folder, signed, force=force)
    typer.echo(f"Roster {signed.roster.version} is in force.")


@app.command()
def start(*, folder: Folder = DEFAULT_FOLDER, passphrase_file: PassphraseFile = None) -> None:
    """Run the coordinator until it is told to stop."""
    from hansa_common.organisation import read_passphrase  # noqa: PLC0415
    from hansa_server.federation.folder import FederationFolder  # noqa: PLC0415
    from hansa_server.federation.process import serve  # noqa: PLC0415

    settings = FederationFolder.open(folder).settings()
    prompt = "Passphrase of the certificate authority's key"
    passphrase = read_passphrase(passphrase_file, variable=VARIABLE, prompt=prompt)
    typer.echo(
        f"{settings.name}: joining on {settings.enrolment_address}, studies on {settings.federation_address}. "
        f"Log: {folder / 'server.log'}. Stop it with Ctrl-C; what runs goes on when it is started again."
    )
    serve(folder, passphrase)


@app.command()
def invite(site: Site, *, folder: Folder = DEFAULT_FOLDER) -> None:
    """Make an invitation for one site, good once and for a day."""
    from hansa_server.federation.administration import InviteReply, SiteRequest  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    reply = administer(folder, "Invite", SiteRequest(site=site), InviteReply)
    until = datetime.fromtimestamp(reply.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    typer.echo(f"For {site}, good once, until {until}. Hand it over in a way that you trust:", err=True)
    typer.echo(reply.invitation)


@app.command()
def sites(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Show who belongs to the federation, who is connected, and until when each certificate is good."""
    from hansa_server.federation.administration import Nothing, SitesReply  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    reply = administer(folder, "Sites", Nothing(), SitesReply)
    if not _is_running(folder):
        typer.echo(f"No server runs on {folder}; this is what it last wrote. Start it: hansa server start", err=True)
    table = Table(box=None)
    for name in ("site", "status", "online since", "certificate until", "last task", "fingerprint"):
        table.add_column(name, overflow="fold")
    for row in reply.sites:
        online = _time(row.online_since) or f"no, seen {_time(row.last_seen) or 'never'}"
        table.add_row(
            *map(
                Text,
                (row.name, row.status, online, _time(row.certificate_until), _step(row.last_round), row.fingerprint),
            )
        )
    console = Console()
    console.print(f"Roster {reply.roster_version}", highlight=False)
    console.print(table)


@app.command()
def revoke(site: Site, *, folder: Folder = DEFAULT_FOLDER) -> None:
    """Shut a site out, at once."""
    from hansa_server.federation.administration import Nothing, SiteRequest  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    administer(folder, "Revoke", SiteRequest(site=site), Nothing)
    typer.echo(f"{site} is revoked. The founder takes it out of the roster: hansa org expel {site!r}")


@app.command()
def unfreeze(site: Site, *, folder: Folder = DEFAULT_FOLDER) -> None:
    """Let a frozen site back in, once it is known who else had its keys."""
    from hansa_server.federation.administration import Nothing, SiteRequest  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    administer(folder, "Unfreeze", SiteRequest(site=site), Nothing)
    typer.echo(f"{site} is a member again.")


@app.command("applications")
def write_applications(
    *,
    folder: Folder = DEFAULT_FOLDER,
    out: Annotated[Path, typer.Option(help="File for the founder.")] = Path("applications.json"),
    roster_out: Annotated[Path, typer.Option(help="The roster in force, for the founder.")] = Path("roster.json"),
) -> None:
    """Write the sites that wait to be admitted, for a founder on another machine."""
    from hansa_common.organisation import Applications, write_document  # noqa: PLC0415

    waiting, signed = applications(folder), current_roster(folder)
    write_document(out, Applications(federation=signed.roster.federation, applications=waiting))
    write_document(roster_out, signed)
    typer.echo(f"{len(waiting)} waiting: {out}, beside {roster_out}")
    typer.echo(f"The founder: hansa org admit SITE --applications {out} --roster {roster_out}")


def current_roster(folder: Path) -> "SignedRoster":
    """Return the roster in force; for ``hansa org``."""
    from hansa_server.federation.administration import Nothing, RosterReply  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    return administer(folder, "Roster", Nothing(), RosterReply).roster


def applications(folder: Path) -> "tuple[SignedBinding, ...]":
    """Return the bindings that wait for the founder; for ``hansa org``."""
    from hansa_server.federation.administration import ApplicationsReply, Nothing  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    return administer(folder, "Applications", Nothing(), ApplicationsReply).applications


def install_roster(folder: Path, signed: "SignedRoster", *, force: bool = False) -> None:
    """Put a roster into force; for ``hansa org``."""
    from hansa_server.federation.administration import Nothing, RosterRequest  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    administer(folder, "InstallRoster", RosterRequest(roster=signed, force=force), Nothing)


def _is_running(folder: Path) -> bool:
    from hansa_server.federation.administration import Nothing, RosterReply  # noqa: PLC0415
    from hansa_server.federation.control import call  # noqa: PLC0415

    try:
        call(folder, "Roster", Nothing(), RosterReply)
    except Unreachable:
        return False
    return True


def _step(task: str) -> str:
    """Return what a task was, without the names that stand beside it: ``train-3``."""
    parts = task.split(":")
    return parts[1] if len(parts) > 1 else ""


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds is not None else ""


app.add_typer(authority_cli.app, name="authority")
federation_cli.mount(app)
