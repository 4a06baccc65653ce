"""An institution's own key: it says which nodes are the institution's, and the founder's says who is a member.

The key may be made and kept on any machine, also one that is never online; what it signs travels as small files.
"""

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field, TypeAdapter, ValidationError

from hansa_common.errors import SettingsError, StorageError, UsageError
from hansa_common.files import read_secret, storage, write_secret, write_whole
from hansa_common.roster import Binding, Organisation, Roster, SignedBinding, SignedRoster
from hansa_common.settings import Strict
from hansa_common.signing import public_hex

_LARGEST = 16 << 20  # bytes of a file to sign; a roster of 10,000 members is about 10 MB


class BindingRequest(Strict):
    """A file that asks an organisation to sign for a node."""

    kind: Literal["binding-request"] = "binding-request"
    binding: Binding


class RosterRequest(Strict):
    """A file that asks the founder to sign a roster."""

    kind: Literal["roster-request"] = "roster-request"
    roster: Roster


class SignedBindingFile(Strict):
    """A file with a binding that an organisation signed."""

    kind: Literal["signed-binding"] = "signed-binding"
    signed: SignedBinding


class SignedRosterFile(Strict):
    """A file with a roster that the founder signed."""

    kind: Literal["signed-roster"] = "signed-roster"
    signed: SignedRoster


class ApplicationsFile(Strict):
    """A file with the sites that wait to be admitted."""

    kind: Literal["applications"] = "applications"
    applications: tuple[SignedBinding, ...]


AnyFile = BindingRequest | RosterRequest | SignedBindingFile | SignedRosterFile | ApplicationsFile
_FILE: TypeAdapter[AnyFile] = TypeAdapter(Annotated[AnyFile, Field(discriminator="kind")])


def read_file(path: Path) -> AnyFile:
    """Read a file that travels between organisations.

    Raises:
        SettingsError: It cannot be read or is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) <= _LARGEST:
            return _FILE.validate_json(content)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", advice="Check the path.") from error
    except ValidationError:
        pass
    raise SettingsError(f"{path} is no file of a federation, or not all of it.", advice="Ask its sender for it again.")


def write_file(path: Path, content: AnyFile) -> None:
    """Write one.

    Raises:
        StorageError: The disk is full or fails.
    """
    write_whole(path, (content.model_dump_json(indent=2) + "\n").encode())


class OrganisationFolder:
    """An organisation's name and encrypted key on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def organisation(self) -> Organisation:
        """The public half.

        Raises:
            UsageError: There is no organisation here.
        """
        try:
            return Organisation.model_validate_json((self.path / "organisation.json").read_bytes())
        except (OSError, ValidationError):
            raise UsageError(
                f"{self.path} holds no organisation.", advice="Make one: hansa org init --name NAME --folder FOLDER"
            ) from None

    def unlock(self, passphrase: bytes) -> Ed25519PrivateKey:
        """Return the private key.

        Raises:
            UsageError: The passphrase is wrong.
            StorageError: The file is missing, or is no such key.
        """
        organisation = self.organisation
        content = read_secret(self.path / "key.pem")
        try:
            key = load_pem_private_key(content, password=passphrase)
        except (ValueError, TypeError):
            raise UsageError(
                "The passphrase does not open the organisation's key.", advice="It cannot be recovered without it."
            ) from None
        if not isinstance(key, Ed25519PrivateKey) or public_hex(key) != organisation.key:
            raise StorageError(f"{self.path} holds another key than its organisation's.", advice="Restore a backup.")
        return key


def create_organisation(folder: Path, name: str, passphrase: bytes) -> OrganisationFolder:
    """Make an organisation's key.

    Raises:
        UsageError: The name or the passphrase is empty.
        StorageError: There is one already, or the disk fails.
    """
    if not passphrase or not name.strip():
        raise UsageError("A name and a passphrase are needed.", advice="The key is never stored unencrypted.")
    with storage(folder, "create", advice="Check --folder."):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    write_secret(folder / "key.pem", encrypted)
    public = Organisation(name=name, key=public_hex(key))
    write_whole(folder / "organisation.json", (json.dumps(public.model_dump(), indent=2) + "\n").encode())
    return OrganisationFolder(folder)


def read_passphrase(file: Path | None, *, variable: str, prompt: str, confirm: bool = False) -> bytes:
    """Return a passphrase from a file, the environment or the terminal, in this order.

    Raises:
        UsageError: None of them has one, or the two that were typed differ.
        IdentityError: Others can read the file.
    """
    if file is not None:
        return read_secret(file).strip()
    if found := os.environ.get(variable):
        return found.encode()
    if not sys.stdin.isatty():
        raise UsageError(f"No passphrase for: {prompt}.", advice=f"Give --passphrase-file, or set {variable}.")
    typed = getpass.getpass(f"{prompt}: ")
    if confirm and getpass.getpass("Once more: ") != typed:
        raise UsageError("The two passphrases differ.", advice="Try again.")
    return typed.encode()
