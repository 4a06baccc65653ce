"""``hansa server authority``: the root that certifies, and its replacement while the federation works.

Each command looks at what is there and does what is left to do, so one that was killed is simply run again.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hansa_common.errors import UsageError
from hansa_server.federation_cli import DEFAULT_FOLDER, Folder

if TYPE_CHECKING:  # --help must not wait for cryptography and SQLAlchemy
    from hansa_common.roster import SignedRoster
    from hansa_server.federation.administration import ShownAuthority

app = typer.Typer(no_args_is_help=True, help="The coordinator's certificate authority, and how it is replaced.")

VARIABLE = "HANSA_PASSPHRASE"
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help=f"File with the authority's passphrase, mode 0600; else {VARIABLE}, else it is asked for."),
]
Out = Annotated[Path, typer.Option(help="Certificate for a founder on another machine.")]
RosterOut = Annotated[Path, typer.Option(help="The roster in force, for a founder on another machine.")]
_OUT, _ROSTER_OUT = Path("authority.crt"), Path("roster.json")


@app.command()
def show(*, folder: Folder = DEFAULT_FOLDER) -> None:
    """Show each authority, what it is good for, and which sites have its certificates."""
    table = Table(box=None)
    for name in ("fingerprint", "state", "sites with its certificate"):
        table.add_column(name, overflow="fold")
    for row in _authorities(folder):
        table.add_row(*map(Text, (_fingerprint(row.pin), row.state, ", ".join(row.sites))))
    Console().print(table)


@app.command()
def rotate(
    *,
    folder: Folder = DEFAULT_FOLDER,
    passphrase_file: PassphraseFile = None,
    out: Out = _OUT,
    roster_out: RosterOut = _ROSTER_OUT,
) -> None:
    """Make the authority that replaces the one in force; the founder's next roster brings it in."""
    from hansa_server.federation.authority import Authorities  # noqa: PLC0415
    from hansa_server.federation.folder import FederationFolder  # noqa: PLC0415

    opened, current, rows = FederationFolder.open(folder), _roster(folder), _authorities(folder)
    pins = current.roster.coordinator.certificate_authorities
    if len(pins) > 1:
        raise UsageError(
            "One authority is being replaced already.", advice="Retire the old one first: hansa server authority retire"
        )
    passphrase = _passphrase(passphrase_file)
    authorities = Authorities(opened, passphrase)
    waiting = [row.pin for row in rows if row.state == "not in the roster"]
    new = authorities.unlock(waiting[-1]) if waiting else authorities.create(current.roster.federation, after=pins[-1])
    typer.echo(f"New authority: {_fingerprint(new.pin)}")
    if current.roster.founder_is_coordinator:
        _sign(folder, current, (*pins, new.pin), passphrase, force=False)
        typer.echo("Connected sites take new certificates now. Then: hansa server authority retire")
        return
    _hand_out(authorities.path_of(new.pin), out, current, roster_out)
    typer.echo(f"The founder, who compares that by phone: hansa org pin {out} --roster {roster_out}")
    typer.echo("Then: hansa server roster roster-next.json, and hansa server authority retire")


@app.command()
def retire(
    *,
    folder: Folder = DEFAULT_FOLDER,
    passphrase_file: PassphraseFile = None,
    out: Out = _OUT,
    roster_out: RosterOut = _ROSTER_OUT,
    force: Annotated[
        bool, typer.Option("--force", help="Cut off sites that still have its certificates; they come back.")
    ] = False,
) -> None:
    """Take the old authority out of the roster, and delete its key."""
    from hansa_server.federation.authority import Authorities  # noqa: PLC0415
    from hansa_server.federation.folder import FederationFolder  # noqa: PLC0415

    opened, current, rows = FederationFolder.open(folder), _roster(folder), _authorities(folder)
    pins = current.roster.coordinator.certificate_authorities
    if len(pins) > 1:
        old = next(row for row in rows if row.pin == pins[0])
        if old.sites and not force:
            raise UsageError(
                f"{', '.join(old.sites)}: still with a certificate of the old authority.",
                advice="A connected site takes a new one by itself; one that is away, at latest when its own expires. "
                "With --force it is cut off now and comes back by its node key.",
            )
        if not current.roster.founder_is_coordinator:
            _hand_out(Authorities(opened).path_of(old.pin), out, current, roster_out)
            typer.echo(f"To retire: {_fingerprint(old.pin)}. The founder: hansa org unpin {out} --roster {roster_out}")
            forced = " --force" if force else ""
            typer.echo(f"Then: hansa server roster roster-next.json{forced}, and this command again")
            return
        _sign(folder, current, pins[1:], _passphrase(passphrase_file), force=force)
        rows = _authorities(folder)
    kept = Authorities(opened)
    keys = [row.pin for row in rows if row.state == "retired" and kept.has_key(row.pin)]
    if not keys:
        waiting = any(row.state == "not in the roster" for row in rows)
        raise UsageError(
            "The new authority is not in the roster yet." if waiting else "There is no old authority to retire.",
            advice="The founder signs it in: hansa org pin" if waiting else "First: hansa server authority rotate",
        )
    for pin in keys:
        kept.discard_key(pin)
        typer.echo(f"Retired, its key deleted: {_fingerprint(pin)}")


def _sign(folder: Path, current: "SignedRoster", pins: tuple[str, ...], passphrase: bytes, *, force: bool) -> None:
    """Sign the next roster where the founder's key lies in this folder, and put it into force."""
    import time  # noqa: PLC0415

    from hansa_common.organisation import OrganisationFolder  # noqa: PLC0415
    from hansa_common.roster import sign_roster  # noqa: PLC0415
    from hansa_server.federation.administration import Nothing, RosterRequest  # noqa: PLC0415
    from hansa_server.federation.folder import FederationFolder  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    key = OrganisationFolder(FederationFolder(folder).founder).unlock(passphrase)
    following = current.roster.following(authorities=pins, issued_at=int(time.time()))
    request = RosterRequest(roster=sign_roster(following, key), force=force)
    administer(folder, "InstallRoster", request, Nothing)
    typer.echo(f"Roster {following.version} is in force.")


def _hand_out(certificate: Path, out: Path, current: "SignedRoster", roster_out: Path) -> None:
    from hansa_common.files import write_whole  # noqa: PLC0415
    from hansa_common.organisation import write_document  # noqa: PLC0415

    write_whole(out, certificate.read_bytes())
    write_document(roster_out, current)


def _roster(folder: Path) -> "SignedRoster":
    from hansa_server.federation.administration import Nothing, RosterReply  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    return administer(folder, "Roster", Nothing(), RosterReply).roster


def _authorities(folder: Path) -> "tuple[ShownAuthority, ...]":
    from hansa_server.federation.administration import AuthoritiesReply, Nothing  # noqa: PLC0415
    from hansa_server.federation.operator import administer  # noqa: PLC0415

    return administer(folder, "Authorities", Nothing(), AuthoritiesReply).authorities


def _passphrase(file: Path | None) -> bytes:
    from hansa_common.organisation import read_passphrase  # noqa: PLC0415

    return read_passphrase(file, variable=VARIABLE, prompt="Passphrase of the certificate authority's key")


def _fingerprint(pin: str) -> str:
    from hansa_common.identity import fingerprint  # noqa: PLC0415

    return fingerprint(pin)
