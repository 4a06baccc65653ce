"""An organisation's signing key, encrypted on its own disk, and the files that travel between the people who sign.

A site's operator sends a ``BindingRequest``; the organisation answers with a ``SignedBinding``. A coordinator sends a
``RosterRequest`` or ``Applications``; the founder answers with a ``SignedRoster``. None of these files holds a secret.
"""

import getpass
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar, overload

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field, ValidationError

from hansa_common.errors import StorageError, UsageError
from hansa_common.files import read_secret, storage, write_secret, write_whole
from hansa_common.identity import NodePublicKeys, fingerprint
from hansa_common.plan_names import SiteName, StudyName
from hansa_common.roster import MAX_MEMBERS, Binding, Organisation, Roster, SignedBinding
from hansa_common.settings import Strict, parse
from hansa_common.signing import public_hex

VARIABLE: Final = "HANSA_ORG_PASSPHRASE"
_MOST: Final = 64 << 20  # bytes of a file; 10,000 bindings are about 10 MiB
_SHORTEST: Final = 8  # characters of a passphrase


class BindingRequest(Strict):
    """A site asks its organisation to say that these keys are its own."""

    format: Literal[1] = 1
    kind: Literal["binding-request"] = "binding-request"
    federation: StudyName
    site: SiteName
    keys: NodePublicKeys

    def fingerprint(self) -> str:
        """Return what the site's operator reads to whoever signs."""
        return fingerprint(self.model_dump(mode="json"))

    def answer(self, organisation: Organisation, *, issued_at: int) -> Binding:
        """Return the binding that an organisation signs."""
        return Binding(
            federation=self.federation, site=self.site, organisation=organisation, keys=self.keys, issued_at=issued_at
        )


class RosterRequest(Strict):
    """A coordinator asks the founder to sign a roster, usually the first."""

    format: Literal[1] = 1
    kind: Literal["roster-request"] = "roster-request"
    roster: Roster


class Applications(Strict):
    """Sites that used their invitation and wait for the founder."""

    format: Literal[1] = 1
    kind: Literal["applications"] = "applications"
    federation: StudyName
    applications: Annotated[tuple[SignedBinding, ...], Field(max_length=MAX_MEMBERS)]


class OrganisationFolder:
    """The folder with an organisation's name and key.

    Args:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def organisation(self) -> Organisation:
        """Name and public key.

        Raises:
            UsageError: There is no organisation in this folder.
        """
        path = self.path / "organisation.json"
        if not path.is_file():
            raise UsageError(
                f"{self.path} holds no organisation.",
                advice="Name the folder of its key, or make one: hansa org init --name NAME",
            )
        return read_document(path, Organisation)

    def unlock(self, passphrase: bytes) -> Ed25519PrivateKey:
        """Return the private key.

        Raises:
            UsageError: The passphrase is wrong.
            StorageError: The key is missing, or is another than the organisation's.
            IdentityError: Others than the owner can read the file.
        """
        path = self.path / "key.pem"
        content = read_secret(path)
        try:
            key = load_pem_private_key(content, password=passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UsageError(
                f"The passphrase does not open {path}.",
                advice="It is the one that the key was made with, by 'hansa org init' or 'hansa server init'; "
                "nobody can reset it.",
            ) from None
        if not isinstance(key, Ed25519PrivateKey) or public_hex(key) != self.organisation.key:
            raise StorageError(f"{path} holds another key than organisation.json.", advice="Restore both together.")
        return key


def check_passphrase(passphrase: bytes) -> None:
    """Refuse a passphrase that is too short for an organisation's key.

    Raises:
        UsageError: It is.
    """
    if len(passphrase) < _SHORTEST:
        raise UsageError(
            f"The passphrase of an organisation's key needs at least {_SHORTEST} characters.",
            advice="Take a longer one: whoever has the key is the organisation.",
        )


def create_organisation(folder: Path, name: str, passphrase: bytes) -> OrganisationFolder:
    """Make an organisation's key and write it, encrypted.

    Raises:
        UsageError: The passphrase is too short, or the name no name.
        StorageError: There is a key already, or the disk fails.
    """
    check_passphrase(passphrase)
    key = Ed25519PrivateKey.generate()
    organisation = parse(Organisation, {"name": name, "key": public_hex(key)})
    with storage(folder, "create", advice="Choose another --folder."):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    write_secret(folder / "key.pem", encrypted)
    write_document(folder / "organisation.json", organisation)
    return OrganisationFolder(folder)


def read_passphrase(file: Path | None, *, variable: str, prompt: str, confirm: bool = False) -> bytes:
    """Return a passphrase from a file of its owner only, else from the environment, else from the terminal.

    Args:
        file: With the passphrase on its first line.
        variable: Of the environment.
        prompt: What the terminal asks.
        confirm: Ask twice, for a new one.

    Raises:
        UsageError: There is none of the three, it is empty, or the two differ.
        IdentityError: Others than the owner can read the file.
        StorageError: The file cannot be read.
    """
    if file is not None:
        passphrase = read_secret(file).split(b"\n", 1)[0].rstrip(b"\r")
    elif variable in os.environ:
        passphrase = os.environ[variable].encode()
    elif sys.stdin.isatty():
        passphrase = _ask(prompt, confirm=confirm)
    else:
        raise UsageError(
            "A passphrase is needed and there is no terminal to ask at.",
            advice=f"Give --passphrase-file FILE (mode 0600), or set {variable}.",
        )
    if not passphrase:
        raise UsageError("The passphrase is empty.", advice="No key is stored without one.")
    return passphrase


def _ask(prompt: str, *, confirm: bool) -> bytes:
    first = getpass.getpass(f"{prompt}: ")
    if confirm and getpass.getpass(f"{prompt}, once more: ") != first:
        raise UsageError("The two passphrases differ.", advice="Nothing was written; start again.")
    return first.encode()


Document = TypeVar("Document", bound=Strict)
Other = TypeVar("Other", bound=Strict)


@overload
def read_document(path: Path, kind: type[Document], /) -> Document: ...
@overload
def read_document(path: Path, kind: type[Document], other: type[Other], /) -> Document | Other: ...
def read_document(path: Path, *kinds: type[Strict]) -> Strict:
    """Read a file that is one of several types.

    Raises:
        UsageError: It is missing, too large or none of them.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", advice="Check the path.") from error
    if len(content) <= _MOST:
        for kind in kinds:
            try:
                return kind.model_validate_json(content)
            except ValidationError:
                continue
    names = " or ".join(re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower() for kind in kinds)
    raise UsageError(f"{path} holds no {names}, or not all of it.", advice="Ask its sender for it again.")


def write_document(path: Path, document: Strict) -> None:
    """Write one of these files.

    Raises:
        StorageError: The disk is full or fails.
    """
    text = json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())
