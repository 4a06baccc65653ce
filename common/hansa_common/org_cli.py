"""``hansa org``: an institution's key, and what it signs."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa_common.errors import UsageError

if TYPE_CHECKING:  # --help must not wait for cryptography
    from hansa_common.roster import Roster, SignedBinding, SignedRoster

app = typer.Typer(no_args_is_help=True, help="An institution's key, and what it signs: its nodes, and the roster.")

VARIABLE = "HANSA_ORG_PASSPHRASE"
Folder = Annotated[Path, typer.Option(help="The organisation's folder.", envvar="HANSA_ORG")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help=f"File with the key's passphrase, mode 0600; else {VARIABLE}, else it is asked for.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]
CurrentRoster = Annotated[Path | None, typer.Option("--roster", help="Signed roster in force, without --server.")]
NextRoster = Annotated[Path, typer.Option("--out", help="The next roster, without --server.")]
Server = Annotated[Path | None, typer.Option(help="The federation's folder, where it is on this machine.")]
_FOLDER = Path("hansa-org")
_NEXT = Path("roster-next.json")


@app.command()
def init(
    *,
    name: Annotated[str, typer.Option(help="Name of the institution, as others shall read it.")],
    folder: Folder = _FOLDER,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an institution's key, encrypted; on any machine, also one that is never online."""
    from hansa_common.organisation import create_organisation, read_passphrase  # noqa: PLC0415

    passphrase = read_passphrase(passphrase_file, variable=VARIABLE, prompt="Passphrase for the new key", confirm=True)
    made = create_organisation(folder, name, passphrase)
    typer.echo(f"{name}: key {_show(made.organisation.model_dump())}")
    typer.echo(f"Public, to hand out: {folder / 'organisation.json'}. Private: {folder / 'key.pem'}; back it up.")


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="A binding request of 'hansa site join', or a roster request.")],
    *,
    folder: Folder = _FOLDER,
    out: Annotated[Path | None, typer.Option(help="The signed file.")] = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
) -> None:
    """Sign for a node of this institution, or, as the founder, a roster."""
    import time  # noqa: PLC0415

    from hansa_common.organisation import (  # noqa: PLC0415
        BindingRequest,
        OrganisationFolder,
        RosterRequest,
        read_document,
        write_document,
    )
    from hansa_common.roster import sign_binding, sign_roster  # noqa: PLC0415

    own = OrganisationFolder(folder)
    request = read_document(file, BindingRequest, RosterRequest)
    target = out or file.with_name(file.name.replace("-request", "").removesuffix(".json") + "-signed.json")
    if isinstance(request, BindingRequest):
        typer.echo(f"{own.organisation.name} says: this is our node {request.site} in {request.federation}.")
        typer.echo(f"Fingerprint, to compare with the node's screen: {request.fingerprint()}")
    else:
        _describe(request.roster)
    _confirm(yes=yes)
    key = own.unlock(_passphrase(passphrase_file, own.path))
    if isinstance(request, BindingRequest):
        binding = request.answer(own.organisation, issued_at=int(time.time()))
        write_document(target, sign_binding(binding, key))
    else:
        write_document(target, sign_roster(request.roster, key))
    typer.echo(f"Signed: {target}")


@app.command()
def admit(
    site: Annotated[str, typer.Argument(help="Name of the site that has enrolled.")],
    *,
    server: Server = None,
    applications: Annotated[
        Path | None, typer.Option(help="File of 'hansa server applications', without --server.")
    ] = None,
    roster: CurrentRoster = None,
    out: NextRoster = _NEXT,
    folder: Folder = _FOLDER,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
) -> None:
    """As the founder, sign the next roster with one more site."""
    current, waiting = _current(server, roster), _waiting(server, applications)
    found = next((binding for binding in waiting if binding.binding.site == site), None)
    if found is None:
        names = ", ".join(sorted(binding.binding.site for binding in waiting)) or "nobody"
        raise UsageError(f"{site} has not enrolled.", advice=f"Waiting: {names}.")
    found.verify()
    typer.echo(f"{found.binding.organisation.name} asks that its node {site} be a member.")
    typer.echo(f"Fingerprint, to compare over the phone: {found.binding.fingerprint()}")
    others = [member for member in current.roster.members if member.binding.site != site]
    signed = _sign_next(current, [*others, found], folder, passphrase_file, yes=yes)
    _hand_over(signed, server, out)


@app.command()
def expel(
    site: Annotated[str, typer.Argument(help="Name of the member.")],
    *,
    server: Server = None,
    roster: CurrentRoster = None,
    out: NextRoster = _NEXT,
    folder: Folder = _FOLDER,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
) -> None:
    """As the founder, sign the next roster without a site."""
    current = _current(server, roster)
    others = [member for member in current.roster.members if member.binding.site != site]
    if len(others) == len(current.roster.members):
        raise UsageError(f"{site} is no member.")
    signed = _sign_next(current, others, folder, passphrase_file, yes=yes)
    _hand_over(signed, server, out)


@app.command()
def pin(
    authority: Annotated[Path, typer.Argument(help="Certificate of the new authority, from the coordinator.")],
    *,
    server: Server = None,
    roster: CurrentRoster = None,
    out: NextRoster = _NEXT,
    folder: Folder = _FOLDER,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
) -> None:
    """As the founder, sign the next roster with one more certificate authority of the coordinator."""
    current, new = _current(server, roster), _pin_of(authority)
    pins = current.roster.coordinator.certificate_authorities
    if new in pins:
        raise UsageError("The roster has this authority already.")
    if len(pins) > 1:
        raise UsageError(
            "One authority is being replaced already.", advice="Retire the old one first: hansa server authority retire"
        )
    typer.echo(f"New authority, to compare over the phone: {_show(new)}")
    signed = _sign_next(current, None, folder, passphrase_file, yes=yes, authorities=(*pins, new))
    _hand_over(signed, server, out)


@app.command()
def unpin(
    authority: Annotated[Path, typer.Argument(help="Certificate of the authority to retire, from the coordinator.")],
    *,
    server: Server = None,
    roster: CurrentRoster = None,
    out: NextRoster = _NEXT,
    folder: Folder = _FOLDER,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
) -> None:
    """As the founder, sign the next roster without one of the coordinator's certificate authorities."""
    current, old = _current(server, roster), _pin_of(authority)
    pins = current.roster.coordinator.certificate_authorities
    if old not in pins:
        raise UsageError("The roster does not have this authority.")
    if len(pins) == 1:
        raise UsageError(
            "It is the only authority.", advice="First another one: hansa server authority rotate, hansa org pin"
        )
    typer.echo(f"Authority to retire, to compare over the phone: {_show(old)}")
    left = tuple(pin for pin in pins if pin != old)
    signed = _sign_next(current, None, folder, passphrase_file, yes=yes, authorities=left)
    _hand_over(signed, server, out)


def _pin_of(path: Path) -> str:
    from cryptography import x509  # noqa: PLC0415

    from hansa_common.identity import pin_of  # noqa: PLC0415

    try:
        return pin_of(x509.load_pem_x509_certificate(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", advice="Check the path.") from error
    except ValueError:
        raise UsageError(f"{path} holds no certificate.", advice="Ask the coordinator for it again.") from None


def _sign_next(
    current: "SignedRoster",
    members: "list[SignedBinding] | None",
    folder: Path,
    passphrase_file: Path | None,
    *,
    yes: bool,
    authorities: tuple[str, ...] | None = None,
) -> "SignedRoster":
    import time  # noqa: PLC0415

    from hansa_common.organisation import OrganisationFolder  # noqa: PLC0415
    from hansa_common.roster import sign_roster  # noqa: PLC0415

    following = current.roster.following(members=members, authorities=authorities, issued_at=int(time.time()))
    own = OrganisationFolder(folder)
    if own.organisation.key != current.roster.founder.key:
        raise UsageError(
            f"{own.organisation.name} did not found this federation; {current.roster.founder.name} did.",
            advice="Only the founder's key signs a roster: name its folder with --folder.",
        )
    current.verify(own.organisation.key)  # else a changed file would get its members signed
    _describe(following)
    _confirm(yes=yes)
    return sign_roster(following, own.unlock(_passphrase(passphrase_file, own.path)))


def _hand_over(signed: "SignedRoster", server: Path | None, out: Path) -> None:
    from hansa_common.organisation import write_document  # noqa: PLC0415

    if server is not None:
        _server("install_roster")(server, signed)
        typer.echo(f"Roster {signed.roster.version} is in force.")
    else:
        write_document(out, signed)
        typer.echo(f"Signed: {out}. The coordinator puts it into force: hansa server roster {out}")


def _current(server: Path | None, roster: Path | None) -> "SignedRoster":
    from hansa_common.organisation import read_document  # noqa: PLC0415
    from hansa_common.roster import SignedRoster  # noqa: PLC0415

    if server is not None:
        found: SignedRoster = _server("current_roster")(server)
        return found
    if roster is None:
        raise UsageError("Which roster is in force?", advice="Give --server FOLDER, or --roster FILE.")
    return read_document(roster, SignedRoster)


def _waiting(server: Path | None, applications: Path | None) -> "tuple[SignedBinding, ...]":
    from hansa_common.organisation import Applications, read_document  # noqa: PLC0415

    if server is not None:
        found: tuple[SignedBinding, ...] = _server("applications")(server)
        return found
    if applications is None:
        raise UsageError("Who has enrolled?", advice="Give --server FOLDER, or --applications FILE.")
    return read_document(applications, Applications).applications


def _server(name: str) -> Callable[..., Any]:
    """Find something of the coordinator's package by name: this package does not know it."""
    for entry in entry_points(group="hansa.federation", name=name):
        loaded: Callable[..., Any] = entry.load()
        return loaded
    raise UsageError("--server needs the coordinator's part of Hansa.", advice="pip install 'hansa[server]'")


def _describe(roster: "Roster") -> None:
    names = [f"{member.binding.site} ({member.binding.organisation.name})" for member in roster.members]
    typer.echo(f"Roster {roster.version} of {roster.federation}, founded by {roster.founder.name}.")
    typer.echo(f"Members: {', '.join(names) or 'none yet'}")
    typer.echo(f"Coordinator's authorities: {', '.join(map(_show, roster.coordinator.certificate_authorities))}")
    if roster.founder_is_coordinator:
        typer.echo("The founder's key lies on the coordinator's machine: whoever holds that machine admits members.")


def _confirm(*, yes: bool) -> None:
    if not yes:
        typer.confirm("Sign this?", abort=True)


def _passphrase(file: Path | None, folder: Path) -> bytes:
    from hansa_common.organisation import read_passphrase  # noqa: PLC0415

    return read_passphrase(file, variable=VARIABLE, prompt=f"Passphrase of the key in {folder}")


def _show(value: object) -> str:
    from hansa_common.identity import fingerprint  # noqa: PLC0415

    return fingerprint(value)
