"""Makes a federation's folder, and opens what membership needs where no server runs."""

import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hansa_common.audit import Journal
from hansa_common.errors import UsageError
from hansa_common.files import write_whole
from hansa_common.organisation import RosterRequest, read_document, write_document
from hansa_common.roster import CoordinatorPins, Organisation, Roster, sign_roster
from hansa_server.federation.attendance import Attendance
from hansa_server.federation.authority import Authorities, Authority
from hansa_server.federation.database import open_database
from hansa_server.federation.folder import FederationFolder
from hansa_server.federation.membership import Membership
from hansa_server.federation.settings import ServerSettings

_FOUNDER = "founder.json"


def found(path: Path, settings: ServerSettings, passphrase: bytes) -> FederationFolder:
    """Make the folder with its authority and database.

    Raises:
        UsageError: There is something in it already, or the passphrase is empty.
        StorageError: The disk fails.
    """
    if not passphrase:
        raise UsageError("The passphrase is empty.", advice="The root key is never stored unencrypted.")
    folder = FederationFolder.create(path, settings)
    Authority.create(folder, settings.name, passphrase)
    open_database(folder.database).dispose()
    Journal(folder.journal).append("federation-created", name=settings.name)
    return folder


def request_roster(
    folder: FederationFolder,
    founder_file: Path,
    *,
    is_coordinator: bool = False,
    key: Ed25519PrivateKey | None = None,
) -> Path:
    """Write what the founder has to sign; with the founder's key, sign it and put it into force.

    Raises:
        UsageError: The file is no organisation's.
    """
    founder = read_document(founder_file, Organisation)
    write_whole(folder.path / _FOUNDER, founder.model_dump_json().encode(), mode=0o600)
    roster = Roster(
        federation=folder.settings().name,
        version=1,
        founder=founder,
        founder_is_coordinator=is_coordinator,
        coordinator=CoordinatorPins(certificate_authorities=tuple(Authorities(folder).certificates())),
        issued_at=int(time.time()),
    )
    target = folder.path / "roster-request.json"
    write_document(target, RosterRequest(roster=roster))
    if key is not None:
        membership_of(folder).install_roster(sign_roster(roster, key))
    return target


def read_founder(folder: FederationFolder) -> Organisation | None:
    """Return the founding organisation, if it is known."""
    path = folder.path / _FOUNDER
    return Organisation.model_validate_json(path.read_bytes()) if path.exists() else None


def membership_of(folder: FederationFolder, passphrase: bytes = b"") -> Membership:
    """Open a folder's membership; without the passphrase nothing can be certified.

    Raises:
        StorageError: The disk fails.
    """
    return Membership(
        engine=open_database(folder.database),
        authorities=Authorities(folder, passphrase),
        settings=folder.settings(),
        journal=Journal(folder.journal),
        founder=read_founder(folder),
    )


def attendance_of(folder: FederationFolder) -> Attendance:
    """Open what is known of the sites' comings and goings.

    Raises:
        StorageError: The disk fails.
    """
    return Attendance(open_database(folder.database))
