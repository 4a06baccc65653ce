from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.client import site_cast

from hansa_client.folder import SiteFolder
from hansa_common.errors import IdentityError, MessageError, StorageError, UsageError
from hansa_common.identity import NodeKeys, pin_of
from hansa_common.plan import StudyPlan
from hansa_common.roster import SignedRoster, sign_roster


@pytest.fixture
def joined(tmp_path: Path) -> Any:
    return site_cast.join(tmp_path / "site")


class TestFolder:
    def test_nothing_secret_can_be_read_by_others(self, joined: Any) -> None:
        joined.folder.lock()
        joined.folder.journal().append("agent-started")
        joined.folder.unlock()
        open_ = [path for path in joined.folder.path.rglob("*") if path.stat().st_mode & 0o077]
        assert open_ == []
        assert joined.folder.path.stat().st_mode & 0o077 == 0

    def test_two_processes_do_not_work_in_one_folder(self, joined: Any) -> None:
        joined.folder.lock()
        with pytest.raises(UsageError, match="Another process"):
            SiteFolder(joined.folder.path).lock()
        joined.folder.unlock()
        SiteFolder(joined.folder.path).lock()

    def test_a_folder_that_is_no_site_says_how_to_join(self, tmp_path: Path) -> None:
        for ask in (SiteFolder(tmp_path).membership, SiteFolder(tmp_path / "none").lock):
            with pytest.raises(UsageError, match="hansa site join"):
                ask()

    def test_keys_are_made_once_and_never_half(self, tmp_path: Path) -> None:
        folder = SiteFolder(tmp_path)
        (tmp_path / ".keys").mkdir()
        (tmp_path / ".keys" / "signing.pem").write_bytes(b"cut off by a crash")
        keys = folder.make_keys().public()
        assert folder.make_keys().public() == keys
        assert not (tmp_path / ".keys").exists()

    def test_forget_leaves_models_and_record(self, joined: Any) -> None:
        folder = joined.folder
        folder.journal().append("agent-started")
        (folder.path / "models" / "thorax-1").mkdir()
        (folder.path / "models" / "thorax-1" / "model.safetensors").touch()
        folder.forget()
        left = {path.name for path in folder.path.iterdir()}
        assert left == {"site.toml", "models", "journal.jsonl"}
        assert (folder.path / "models" / "thorax-1" / "model.safetensors").exists()

    def test_the_operators_settings_are_not_overwritten(self, joined: Any) -> None:
        (joined.folder.path / "site.toml").write_text('device = "cpu"\n')
        joined.folder.create()
        assert joined.folder.settings().device == "cpu"

    def test_pausing_is_kept_over_a_restart(self, joined: Any) -> None:
        joined.folder.set_paused(True)
        assert SiteFolder(joined.folder.path).is_paused()
        joined.folder.set_paused(False)
        joined.folder.set_paused(False)
        assert not joined.folder.is_paused()


class TestCounter:
    def test_it_goes_up_over_restarts(self, joined: Any) -> None:
        assert [SiteFolder(joined.folder.path).next_counter() for _ in range(3)] == [1, 2, 3]

    @pytest.mark.parametrize("content", [b"", b"-1", b"1e9", b"\xff", "١٢".encode(), b"9" * 17])
    def test_one_that_cannot_be_read_is_not_guessed(self, joined: Any, content: bytes) -> None:
        (joined.folder.path / "counter").write_bytes(content)
        with pytest.raises(StorageError, match="counter"):
            joined.folder.next_counter()

    def test_it_is_on_the_disk_before_it_is_used(self, joined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_arguments: Any, **_options: Any) -> None:
            raise StorageError("The disk is full.")

        monkeypatch.setattr("hansa_client.folder.write_whole", fail)
        with pytest.raises(StorageError):
            joined.folder.next_counter()

    def test_joining_again_does_not_start_it_anew(self, joined: Any) -> None:
        folder = joined.folder
        folder.next_counter()
        folder.save_membership(folder.membership(), folder.roster(), joined.root.issue(folder.keys()))
        assert folder.next_counter() == 2


class TestCertificate:
    def test_a_new_one_takes_the_old_ones_place(self, joined: Any) -> None:
        reply = joined.root.issue(joined.folder.keys())
        joined.folder.save_certificate(reply)
        assert joined.folder.certificate() == reply.certificate
        assert joined.folder.authorities() == reply.authorities
        start, end = joined.folder.certificate_times()
        assert end - start == pytest.approx(7 * 86_400 + 300, abs=2)

    def test_two_authorities_are_told_apart(self, joined: Any) -> None:
        new = site_cast.Root()
        roster = joined.folder.roster().roster.following(
            authorities=(pin_of(joined.root.certificate), pin_of(new.certificate)), issued_at=2
        )
        joined.folder.accept_roster(sign_roster(roster, joined.founder), (joined.root.pem.strip(), new.pem.strip()))
        assert joined.folder.authorities() == (joined.root.pem, new.pem)

    def test_hostile_ones_are_refused_and_the_old_one_stays(self, joined: Any) -> None:
        keys, other, root = joined.folder.keys(), site_cast.Root(), joined.root
        good = root.issue(keys)
        forged = site_cast.Root()
        forged.key, forged.name = site_cast.Root().key, root.name
        before = joined.folder.certificate()
        for reply, reason in (
            (other.issue(keys), "not in the roster"),
            (good.model_copy(update={"authorities": (root.pem, other.pem)}), "not in the roster"),
            (good.model_copy(update={"certificate": other.issue(keys).certificate}), "coordinator's authority"),
            (good.model_copy(update={"certificate": forged.issue(keys).certificate}), "coordinator's authority"),
            (root.issue(NodeKeys.generate()), "another key"),
            (root.issue(keys, site="Hospital B"), "another site"),
            (root.issue(keys, federation="skin"), "another site"),
            (good.model_copy(update={"certificate": "x"}), "no certificate"),
        ):
            with pytest.raises(IdentityError, match=reason):
                joined.folder.save_certificate(reply)
        assert joined.folder.certificate() == before


class TestRoster:
    def test_one_that_admits_this_site(self, joined: Any) -> None:
        assert not joined.folder.is_member()
        joined.folder.accept_roster(joined.next_roster(joined.binding()))
        assert joined.folder.is_member()

    def test_others_may_be_admitted_before(self, joined: Any) -> None:
        joined.folder.accept_roster(joined.next_roster(joined.binding("Other", NodeKeys.generate())))
        assert joined.folder.roster().roster.version == 2

    def test_being_taken_out_is_said_and_kept(self, joined: Any) -> None:
        joined.folder.accept_roster(joined.next_roster(joined.binding()))
        out = joined.next_roster()
        with pytest.raises(IdentityError, match="no longer has this site"):
            joined.folder.accept_roster(out)
        assert joined.folder.roster() == out

    def test_other_keys_under_this_name_are_said(self, joined: Any) -> None:
        joined.folder.accept_roster(joined.next_roster(joined.binding()))
        with pytest.raises(IdentityError, match="no longer has this site"):
            joined.folder.accept_roster(joined.next_roster(joined.binding(keys=NodeKeys.generate())))
        assert not joined.folder.is_member()

    def test_older_skipped_and_foreign_ones_are_refused(self, joined: Any) -> None:
        first = joined.folder.roster()
        second = joined.next_roster(joined.binding())
        joined.folder.accept_roster(second)
        third = joined.next_roster(joined.binding())
        joined.folder.accept_roster(third)
        foreign = joined.next_roster(joined.binding(), key=Ed25519PrivateKey.generate())
        for roster in (first, second, third, foreign):
            with pytest.raises(IdentityError):
                joined.folder.accept_roster(roster)
        assert joined.folder.roster() == third


class TestAuthorities:
    """Only the founder's signature brings an authority in, and takes one out."""

    @staticmethod
    def following(joined: Any, *roots: Any, key: Ed25519PrivateKey | None = None) -> SignedRoster:
        pins = tuple(pin_of(root.certificate) for root in roots)
        roster = joined.folder.roster().roster.following(authorities=pins, issued_at=2)
        return sign_roster(roster, key or joined.founder)

    def test_one_replaces_the_other(self, joined: Any) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        assert folder.issuer() == pin_of(old.certificate)
        folder.accept_roster(self.following(joined, old, new), (old.pem, new.pem))
        assert folder.issuer() == pin_of(old.certificate)
        folder.save_certificate(new.issue(folder.keys()))
        assert folder.authorities() == (old.pem, new.pem)  # its server may still show the old one
        folder.accept_roster(self.following(joined, new), (new.pem,))
        assert folder.authorities() == (new.pem,)
        assert folder.issuer() == pin_of(new.certificate)

    def test_of_a_site_that_was_away_the_certificate_counts_no_more(self, joined: Any) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        folder.accept_roster(self.following(joined, old, new))
        folder.accept_roster(self.following(joined, new), (new.pem,))
        assert folder.issuer() is None
        assert folder.authorities() == (new.pem,)

    def test_a_new_one_that_somebody_else_signed_is_refused(self, joined: Any) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        for key in (Ed25519PrivateKey.generate(), folder.keys().signing):
            with pytest.raises(IdentityError):
                folder.accept_roster(self.following(joined, old, new, key=key), (old.pem, new.pem))
        assert folder.authorities() == (old.pem,)
        assert folder.roster().roster.version == 1

    def test_a_new_one_without_a_roster_is_refused(self, joined: Any) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        with pytest.raises(IdentityError, match="not in the roster"):
            folder.save_certificate(new.issue(folder.keys()))
        with pytest.raises(IdentityError, match="not in the roster"):
            folder.accept_roster(self.following(joined, old), (old.pem, new.pem))
        assert folder.authorities() == (old.pem,)
        assert folder.roster().roster.version == 1

    def test_a_roster_from_before_does_not_bring_the_old_one_back(self, joined: Any) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        first, both = folder.roster(), self.following(joined, old, new)
        folder.accept_roster(both, (old.pem, new.pem))
        folder.accept_roster(self.following(joined, new), (new.pem,))
        for replayed in (first, both):
            with pytest.raises(IdentityError, match="does not follow"):
                folder.accept_roster(replayed, (old.pem, new.pem))
        with pytest.raises(IdentityError, match="not in the roster"):
            folder.save_certificate(old.issue(folder.keys()))
        assert folder.authorities() == (new.pem,)

    def test_a_site_is_never_left_without_one(self, joined: Any) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        with pytest.raises(IdentityError, match="does not show"):
            folder.accept_roster(self.following(joined, new))
        assert folder.authorities() == (old.pem,)

    def test_killed_between_the_two_files_it_has_the_old_ones(
        self, joined: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, old, new = joined.folder, joined.root, site_cast.Root()
        roster = self.following(joined, new)

        def fail(*_arguments: Any) -> None:
            raise StorageError("killed here")

        with monkeypatch.context() as patch:
            patch.setattr(SiteFolder, "_write", fail)
            with pytest.raises(StorageError):
                folder.accept_roster(roster, (new.pem,))
        assert folder.authorities() == (old.pem,)
        folder.accept_roster(roster, (new.pem,))
        assert folder.authorities() == (new.pem,)


class TestProposals:
    def test_they_are_kept_once_and_closed(self, joined: Any, small_plan: StudyPlan) -> None:
        proposal = site_cast.propose(small_plan)
        assert joined.folder.save_proposal(proposal)
        assert not joined.folder.save_proposal(proposal)
        assert joined.folder.proposals() == (proposal,)
        assert joined.folder.proposal("small-1") == proposal
        joined.folder.close_proposal("small-1")
        joined.folder.close_proposal("small-1")
        with pytest.raises(UsageError, match="none"):
            joined.folder.proposal("small-1")

    @pytest.mark.parametrize("study", ["../../x", "a/b", "", ".x", "A", "a\n", "a" * 101, "-a"])
    def test_an_id_is_never_a_path(self, joined: Any, small_plan: StudyPlan, study: str) -> None:
        proposal = site_cast.propose(small_plan).model_copy(update={"study": study})
        with pytest.raises(MessageError):
            joined.folder.save_proposal(proposal)
        for ask in (joined.folder.proposal, joined.folder.close_proposal):
            with pytest.raises(MessageError):
                ask(study)

    def test_a_digest_of_another_plan_is_refused(
        self, joined: Any, small_plan: StudyPlan, make_plan: Callable[..., StudyPlan]
    ) -> None:
        with pytest.raises(IdentityError, match="digest"):
            joined.folder.save_proposal(site_cast.propose(small_plan, digest=make_plan(seed=8).digest()))
        assert joined.folder.proposals() == ()

    @pytest.mark.parametrize("plan", ["", "{}", "[]", "[" * 100_000, '{"kind": "flower-app"}', '{"format": 2}'])
    def test_a_plan_that_cannot_be_read_is_refused(self, joined: Any, small_plan: StudyPlan, plan: str) -> None:
        with pytest.raises(MessageError):
            joined.folder.save_proposal(site_cast.propose(small_plan).model_copy(update={"plan": plan}))

    def test_their_number_is_bounded(self, joined: Any, small_plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hansa_client.folder._MOST_PROPOSALS", 2)
        joined.folder.save_proposal(site_cast.propose(small_plan, "a"))
        joined.folder.save_proposal(site_cast.propose(small_plan, "b"))
        with pytest.raises(MessageError, match="open"):
            joined.folder.save_proposal(site_cast.propose(small_plan, "c"))
        assert joined.folder.save_proposal(site_cast.propose(small_plan, "b", proposed_at=5))


class TestDecisions:
    def test_the_last_answer_counts(self, joined: Any, small_plan: StudyPlan) -> None:
        folder, digest = joined.folder, small_plan.digest()
        assert not folder.is_approved(digest)
        folder.save_decision(joined.decision(digest))
        assert folder.is_approved(digest)
        assert set(folder.decisions()) == {digest}
        folder.save_decision(joined.decision(digest, approved=False))
        assert not folder.is_approved(digest)

    def test_only_this_sites_signed_word_about_this_plan_is_an_approval(
        self, joined: Any, small_plan: StudyPlan, make_plan: Callable[..., StudyPlan]
    ) -> None:
        folder, digest, other = joined.folder, small_plan.digest(), make_plan(seed=8).digest()
        path = folder.path / "decisions" / f"{digest}.json"
        good, refused = joined.decision(digest), joined.decision(digest, approved=False)
        folder.save_decision(good)
        assert folder.is_approved(digest)
        for request in (
            refused.model_copy(update={"decision": good.decision}),
            good.model_copy(update={"signature": "0" * 128}),
            joined.decision(other),
            joined.decision(digest, site="Hospital B"),
            joined.decision(digest, federation="skin"),
        ):
            path.write_text(request.model_dump_json())
            assert not folder.is_approved(digest)
            assert folder.decisions() == {}

    @pytest.mark.parametrize("content", [b"", b"{}", b"true", b"[" * 100_000, b"\xff\xfe"])
    def test_what_cannot_be_read_is_no_approval(self, joined: Any, small_plan: StudyPlan, content: bytes) -> None:
        digest = small_plan.digest()
        (joined.folder.path / "decisions" / f"{digest}.json").write_bytes(content)
        assert not joined.folder.is_approved(digest)
        assert joined.folder.decisions() == {}

    def test_without_the_key_nothing_is_approved(self, joined: Any, small_plan: StudyPlan) -> None:
        digest = small_plan.digest()
        joined.folder.save_decision(joined.decision(digest))
        (joined.folder.path / "keys" / "signing.pem").unlink()
        assert not joined.folder.is_approved(digest)

    @pytest.mark.parametrize("digest", ["", "../x", "A" * 64, "0" * 63, "0" * 64 + "\n"])
    def test_a_digest_is_never_a_path(self, joined: Any, digest: str) -> None:
        assert not joined.folder.is_approved(digest)
