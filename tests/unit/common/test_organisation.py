from pathlib import Path
from typing import Any

import pytest

from hansa_common.errors import IdentityError, StorageError, UsageError
from hansa_common.organisation import (
    Applications,
    BindingRequest,
    OrganisationFolder,
    RosterRequest,
    create_organisation,
    read_document,
    read_passphrase,
    write_document,
)
from hansa_common.roster import SignedBinding, SignedRoster, sign_binding
from hansa_common.settings import Strict
from hansa_common.signing import public_hex

PASSPHRASE = b"correct horse"


def request_of(cast: Any) -> BindingRequest:
    return BindingRequest(federation="thorax", site="Site 1", keys=cast.node(1).public())


def test_the_key_is_encrypted_and_its_owners_only(tmp_path: Path) -> None:
    made = create_organisation(tmp_path / "org", "Charité", PASSPHRASE)
    content = (tmp_path / "org" / "key.pem").read_bytes()
    assert b"ENCRYPTED" in content
    assert (tmp_path / "org" / "key.pem").stat().st_mode & 0o777 == 0o600
    key = OrganisationFolder(tmp_path / "org").unlock(PASSPHRASE)
    assert public_hex(key) == made.organisation.key
    assert made.organisation.name == "Charité"


def test_a_wrong_passphrase_says_so_and_holds_no_secret(tmp_path: Path) -> None:
    made = create_organisation(tmp_path, "A", PASSPHRASE)
    with pytest.raises(UsageError, match="does not open") as raised:
        made.unlock(b"wrong horse")
    assert "horse" not in str(raised.value)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    before = create_organisation(tmp_path, "A", PASSPHRASE).organisation
    with pytest.raises(StorageError, match="exists already"):
        create_organisation(tmp_path, "B", PASSPHRASE)
    assert OrganisationFolder(tmp_path).organisation == before


def test_a_key_of_another_organisation_is_refused(tmp_path: Path) -> None:
    create_organisation(tmp_path / "a", "A", PASSPHRASE)
    other = create_organisation(tmp_path / "b", "B", PASSPHRASE)
    (tmp_path / "a" / "key.pem").replace(tmp_path / "b" / "key.pem")
    with pytest.raises(StorageError, match="another key"):
        other.unlock(PASSPHRASE)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    made = create_organisation(tmp_path, "A", PASSPHRASE)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(IdentityError, match="others"):
        made.unlock(PASSPHRASE)


def test_a_short_passphrase_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 8"):
        create_organisation(tmp_path, "A", b"short")
    assert not (tmp_path / "key.pem").exists()


def test_a_folder_without_an_organisation_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hansa org init"):
        _ = OrganisationFolder(tmp_path).organisation


class TestReadPassphrase:
    def test_a_file_wins_over_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOME", "from the environment")
        file = tmp_path / "passphrase"
        file.write_bytes(b"from the file \r\nsecond line\n")
        file.chmod(0o600)
        assert read_passphrase(file, variable="SOME", prompt="?") == b"from the file "
        assert read_passphrase(None, variable="SOME", prompt="?") == b"from the environment"

    def test_a_file_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "passphrase"
        file.write_bytes(b"secret")
        file.chmod(0o640)
        with pytest.raises(IdentityError, match="chmod 600"):
            read_passphrase(file, variable="SOME", prompt="?")

    def test_without_any_it_says_how(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SOME", raising=False)
        monkeypatch.setattr("sys.stdin.isatty", lambda: False)
        with pytest.raises(UsageError, match="set SOME"):
            read_passphrase(None, variable="SOME", prompt="?")

    def test_an_empty_one_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOME", "")
        with pytest.raises(UsageError, match="empty"):
            read_passphrase(None, variable="SOME", prompt="?")

    def test_a_new_one_is_asked_for_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SOME", raising=False)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        answers = iter(["first one", "second one"])
        monkeypatch.setattr("getpass.getpass", lambda _prompt: next(answers))
        with pytest.raises(UsageError, match="differ"):
            read_passphrase(None, variable="SOME", prompt="?", confirm=True)


class TestDocuments:
    def test_each_is_read_back_and_told_from_the_others(self, tmp_path: Path, cast: Any) -> None:
        documents = [
            request_of(cast),
            RosterRequest(roster=cast.first().roster),
            Applications(federation="thorax", applications=(cast.member(1),)),
            cast.member(2),
            cast.first(),
        ]
        kinds: list[type[Strict]] = [BindingRequest, RosterRequest, Applications, SignedBinding, SignedRoster]
        path = tmp_path / "document.json"
        for document, kind in zip(documents, kinds, strict=True):
            write_document(path, document)
            assert read_document(path, kind) == document
            for other in kinds:
                if other is not kind:
                    with pytest.raises(UsageError, match="holds no"):
                        read_document(path, other)

    @pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"kind": "binding-request"}', b"\xff"])
    def test_garbage_is_none(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "document.json"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="holds no binding request or roster request"):
            read_document(path, BindingRequest, RosterRequest)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nowhere\.json"):
            read_document(tmp_path / "nowhere.json", BindingRequest)

    def test_the_answer_to_a_request_binds_exactly_its_keys(self, cast: Any) -> None:
        request = request_of(cast)
        binding = request.answer(cast.organisation(1), issued_at=7)
        assert (binding.federation, binding.site, binding.keys) == (request.federation, request.site, request.keys)
        sign_binding(binding, cast.key(1)).verify()

    def test_the_fingerprint_follows_every_field(self, cast: Any) -> None:
        request = request_of(cast)
        changes = ({"federation": "other"}, {"site": "Site 2"}, {"keys": cast.node(2).public()})
        prints = {request.fingerprint(), *(request.model_copy(update=change).fingerprint() for change in changes)}
        assert len(prints) == 4
