"""A server or a site that does not keep to the protocol: each script ends in a named error, and no share leaves.

Where a script could end in knowledge, it tries to reconstruct the update with all that the attacker has.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.errors import (
    KeyRefused,
    MessageError,
    NotConfirmed,
    OutOfTurn,
    PlanError,
    RolledBack,
    RoundReplayed,
    SecondStory,
    SetRefused,
    SetupRefused,
    SiteBlamed,
    TooFewSites,
    UpdateRefused,
)
from hansa_common.secagg import Announcement, Confirmation, SiteMemory, StudyKey, Survivors, Terms
from hansa_common.secagg.agreement import exchange, open_box, pair_keys, self_keys, signed
from hansa_common.secagg.masking import apply
from hansa_common.secagg.messages import BOX_BYTES
from hansa_common.secagg.sharing import PRIME, combine, split, weights
from hansa_common.signing import public_hex

LOW_ORDER = [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")]
TWICE_WRITTEN = [(2**255 - 19 + 9).to_bytes(32, "little"), (9 + 2**255).to_bytes(32, "little")]
"""Curve25519's base point in two more ways."""


def announcement_of(league: Any, setups: Any) -> Announcement:
    """What a server without scruples sends: no check of its own."""
    return Announcement(terms=league.terms, turn=setups[0].turn, setups=tuple(setups))


def setups_of(league: Any, *, turn: tuple[int, int] = (1, 1)) -> list[Any]:
    return [session.setup(turn[0], turn[1], league.keys) for session in league.sessions.values()]


def resigned(league: Any, setup: Any, **changes: Any) -> Any:
    """A setup that a malicious site changed and signed."""
    return signed(replace(setup, **changes), league.signing[setup.site])


def survivors_of(league: Any, announcement: Announcement, numbers: Any) -> Survivors:
    sites = tuple(league.names[number] for number in numbers)
    return Survivors(terms=league.terms, turn=announcement.turn, announcement=announcement.digest(), sites=sites)


def confirmed_by(league: Any, confirmation: Confirmation, numbers: Any, **changes: Any) -> list[Confirmation]:
    """Signatures of sites that sign whatever the server wants."""
    names = [league.names[number] for number in numbers]
    return [signed(replace(confirmation, site=name, **changes), league.signing[name]) for name in names]


# -- Two stories -------------------------------------------------------------------------------------------------------


def test_a_second_set_of_survivors_is_never_signed(make_league: Any) -> None:
    league = make_league(7)
    announcement = league.until_masked(league.server())
    first, second = (survivors_of(league, announcement, numbers) for numbers in (range(7), range(6)))
    session = league.site(0)
    session.confirm(first)
    for restarted in (session, league.start("site-000")):
        with pytest.raises(SecondStory, match="second set"):
            restarted.confirm(second)


def test_both_shares_of_one_site_never_leave(make_league: Any) -> None:
    """With U and U without the victim, the server would have seed and key of the victim, and so its update."""
    league = make_league(7)
    server = league.server()
    announcement, survivors, confirmations = league.until_confirmed(server)
    answer = league.site(0).unmask(confirmations)
    without = survivors_of(league, announcement, range(6))
    forged = confirmed_by(league, confirmations[0], range(1, 6), survivors=without.sites)
    for session in (league.site(0), league.start("site-000")):
        with pytest.raises(NotConfirmed, match="another set"):
            session.unmask(forged, announcement=announcement)
        assert session.unmask(confirmations) == answer
    assert answer.survivors == survivors.sites


def test_a_second_announcement_is_refused_also_after_the_first_was_refused(make_league: Any) -> None:
    league = make_league(5)
    setups = setups_of(league)
    league.site(0).accept(announcement_of(league, setups))
    with pytest.raises(SecondStory):
        league.masked("site-000", announcement_of(league, setups[:4]))
    bad = resigned(league, setups[4], threshold=2)
    with pytest.raises(SetupRefused):
        league.site(1).accept(announcement_of(league, [*setups[:4], bad]))
    with pytest.raises(SecondStory):
        league.masked("site-001", announcement_of(league, setups))


def test_survivors_of_another_announcement_are_refused(league: Any) -> None:
    announcement = league.until_masked(league.server())
    survivors = survivors_of(league, announcement, range(4))
    with pytest.raises(SecondStory, match="another announcement"):
        league.site(0).confirm(replace(survivors, announcement=bytes(32)))


def test_a_restarted_site_opens_its_boxes_of_no_other_announcement(make_league: Any) -> None:
    league = make_league(5)
    announcement, _, confirmations = league.until_confirmed(league.server())
    session = league.start("site-000")
    for other in (announcement.setups[:4], announcement.setups[1:]):
        with pytest.raises(SecondStory, match="Another announcement"):
            session.unmask(confirmations, announcement=replace(announcement, setups=other))
    assert league.memory["site-000"].used.answer is None
    assert session.unmask(confirmations, announcement=announcement).site == "site-000"


# -- Replays -----------------------------------------------------------------------------------------------------------


def test_nothing_is_masked_twice_under_one_setup(league: Any, model: bytes) -> None:
    """Two updates under one mask: their difference is plain."""
    announcement = league.until_masked(league.server())
    vector, counts = league.draw("site-000", seed=1)
    for session in (league.site(0), league.start("site-000")):
        for digest in (model, b"x" * 32):
            with pytest.raises(RoundReplayed):
                session.mask(announcement, digest, vector, counts)
    assert vector.tolist() == league.draw("site-000", seed=1)[0].tolist()


def test_an_old_announcement_is_refused(league: Any) -> None:
    old = league.announce(league.server())
    new = league.announce(league.server(2), turn=(2, 1))
    league.masked("site-000", new)
    with pytest.raises(RoundReplayed):
        league.masked("site-000", old)
    with pytest.raises(RoundReplayed):
        league.site(0).setup(1, 2, league.keys)


def test_a_void_round_is_not_reopened_once_the_next_began(league: Any) -> None:
    """Round 1 is signed, called void, repeated as attempt 2; then shares are asked for attempt 1 after all."""
    first, second = league.server(), league.server(1, 2)
    announcement, survivors, confirmations = league.until_confirmed(first)
    again = league.announce(second, turn=(1, 2))
    league.masked("site-000", again)
    for session in (league.site(0), league.start("site-000")):
        with pytest.raises(RoundReplayed):
            session.unmask(confirmations, announcement=announcement)
        with pytest.raises(RoundReplayed):
            session.confirm(survivors)


def test_an_announcement_without_this_site_or_of_another_plan_is_refused(make_league: Any) -> None:
    league, other = make_league(5), make_league(4)
    setups = setups_of(league)
    with pytest.raises(SetRefused, match="without this site"):
        league.masked("site-000", announcement_of(league, setups[1:]))
    announcement = other.announce(other.server())
    with pytest.raises(MessageError, match="another plan"):
        league.masked("site-000", announcement)
    with pytest.raises(MessageError, match="another plan"):
        league.site(0).confirm(survivors_of(other, announcement, range(4)))


def test_a_step_of_another_round_is_refused(league: Any) -> None:
    announcement, survivors, confirmations = league.until_confirmed(league.server())
    later = replace(survivors, turn=replace(survivors.turn, round=2))
    with pytest.raises(OutOfTurn):
        league.site(0).confirm(later)
    with pytest.raises(OutOfTurn):
        league.site(0).unmask([replace(one, turn=later.turn) for one in confirmations], announcement=announcement)


# -- Sybils and keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ("a",), ("a", "b")])
def test_a_plan_of_two_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="each site sees the other's update") as refusal:
        Terms(plan_digest="ab" * 32, sites=names, cohort="changing", ring_bits=32)
    assert refusal.value.path == "federation.sites"


def test_a_roster_of_two_is_refused(make_league: Any) -> None:
    league = make_league(4)
    two = {name: league.directory[name] for name in league.names[:2]}
    with pytest.raises(TooFewSites):
        league.start("site-000", directory=two).setup(1, 1, league.keys)


def test_a_key_that_is_not_enrolled_is_refused(league: Any) -> None:
    """The server makes a key pair up, or gives a site's study key out with its own signature."""
    made_up = Ed25519PrivateKey.generate()
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()
    forged = signed(replace(league.keys[1], key=own), made_up)
    with pytest.raises(KeyRefused) as refusal:
        league.site(0).setup(1, 1, [league.keys[0], forged, *league.keys[2:]])
    assert refusal.value.site == "site-001"
    with pytest.raises(KeyRefused, match="another signing key"):
        league.start("site-000", signing=made_up)
    assert league.memory["site-000"] == SiteMemory()


def test_a_site_without_a_study_key_has_dropped_out_and_too_many_of_those_are_too_many(league: Any) -> None:
    first, *others = league.keys
    assert league.site(0).setup(1, 1, [first, *others[1:]]).threshold == league.terms.threshold
    with pytest.raises(TooFewSites, match="2 of the plan's 4 sites have a key"):
        league.site(0).setup(1, 2, [first, others[0]])
    with pytest.raises(KeyRefused):
        league.site(0).setup(1, 3, others)


@pytest.mark.parametrize("change", ["twice", "swapped", "low-order", "shared", "own"])
def test_study_keys_are_those_of_enrolled_sites_each_once(league: Any, change: str) -> None:
    first, second, third, fourth = league.keys
    wrong = {
        "twice": ([*league.keys, second], "site-001"),
        "swapped": ([first, replace(second, key=third.key), third, fourth], "site-001"),
        "low-order": ([first, resigned(league, second, key=LOW_ORDER[1]), third, fourth], "site-001"),
        "shared": ([first, second, resigned(league, third, key=second.key), fourth], "site-002"),
        "own": ([resigned(league, first, key=b"\7" * 32), second, third, fourth], "site-000"),
    }[change]
    with pytest.raises(KeyRefused) as refusal:
        league.site(0).setup(1, 1, wrong[0])
    assert refusal.value.site == wrong[1]


def test_a_revoked_site_counts_in_n_and_its_keys_and_setups_are_refused(make_league: Any) -> None:
    league = make_league(5)
    early = league.site(4).setup(1, 1, league.keys)
    del league.directory["site-004"]
    left = league.names[:4]
    for name in left:
        league.start(name)
    with pytest.raises(KeyRefused) as refusal:
        league.site(0).setup(1, 1, league.keys)
    assert refusal.value.site == "site-004"
    league.keys = league.keys[:4]
    server = league.server()
    with pytest.raises(UpdateRefused):
        server.add_setup(early)
    league.until_confirmed(server, setups=left)
    for answer in league.answers(server, left):
        server.add_answer(answer)
    assert league.lists(server) == league.expected(left)
    late = announcement_of(league, [*[league.sessions[name].setup(2, 1, league.keys) for name in left], early])
    late = replace(late, setups=(*late.setups[:4], replace(early, turn=late.turn)))
    with pytest.raises(SetupRefused) as blame:
        league.masked("site-000", late)
    assert blame.value.site == "site-004"


# -- Setups ------------------------------------------------------------------------------------------------------------


def refused(league: Any, setups: Any, blamed: str, match: str) -> None:
    """The first site refuses by name, and what it would have masked is untouched."""
    with pytest.raises(SetupRefused, match=match) as refusal:
        league.masked("site-000", announcement_of(league, setups))
    assert refusal.value.site == blamed
    assert league.memory["site-000"].used is None


def test_another_sites_key_signed_as_ones_own_is_refused(league: Any) -> None:
    """Without ids under the key, the masks with the twin would cancel those with the site that was copied."""
    setups = setups_of(league)
    setups[2] = resigned(league, setups[2], public=setups[1].public)
    refused(league, setups, "site-002", "same key")
    server = league.server()
    server.add_setup(setups[1])
    with pytest.raises(UpdateRefused, match="also that of site-001"):
        server.add_setup(setups[2])


def test_even_a_copied_key_would_not_cancel_a_mask(league: Any, model: bytes) -> None:
    secret, turn = b"s" * 32, setups_of(league)[0].turn
    pairs = [
        pair_keys(turn, "site-001", other, secret=secret, announcement=bytes(32), model=model)
        for other in ("site-000", "site-002", "site-003")
    ]
    keys = {key for pair in pairs for key in (pair.vector, pair.counts)}
    assert len(keys) == 6


@pytest.mark.parametrize("public", LOW_ORDER + TWICE_WRITTEN)
def test_a_key_of_low_order_or_in_disguise_is_refused(league: Any, public: bytes) -> None:
    setups = setups_of(league)
    setups[2] = resigned(league, setups[2], public=public)
    refused(league, setups, "site-002", "low order")
    with pytest.raises(UpdateRefused, match="low order"):
        league.server().add_setup(setups[2])


def test_swapped_boxes_do_not_open(league: Any) -> None:
    """Of two receivers in one setup, of two dealers, of two attempts."""
    setups = setups_of(league)
    boxes = setups[2].boxes
    swapped = boxes[BOX_BYTES : 2 * BOX_BYTES] + boxes[:BOX_BYTES] + boxes[2 * BOX_BYTES :]
    for wrong in (swapped, setups[1].boxes, league.site(2).setup(1, 2, league.keys).boxes):
        league.memory["site-000"] = SiteMemory()
        own = league.start("site-000").setup(1, 1, league.keys)
        bad = resigned(league, setups[2], boxes=wrong)
        refused(league, [own, setups[1], bad, setups[3]], "site-002", r"site-002.*for 'site-000'")


def test_a_share_that_was_not_committed_to_is_refused_before_anything_is_masked(league: Any) -> None:
    setups = setups_of(league)
    for place in (0, 32):
        league.memory["site-000"] = SiteMemory()
        own = league.start("site-000").setup(1, 1, league.keys)
        wrong = bytearray(setups[2].share_commitments)
        wrong[place] ^= 1
        bad = resigned(league, setups[2], share_commitments=bytes(wrong))
        refused(league, [own, setups[1], bad, setups[3]], "site-002", "committed")


def test_a_setup_changed_on_its_way_is_refused(league: Any) -> None:
    setups = setups_of(league)
    setups[2] = replace(setups[2], seed_commitment=bytes(32))
    refused(league, setups, "site-002", "not signed")
    with pytest.raises(UpdateRefused, match="not signed"):
        league.server().add_setup(setups[2])


@pytest.mark.parametrize("change", [{"threshold": 2}, {"keys_digest": bytes(32)}])
def test_a_setup_with_another_threshold_or_for_other_keys_is_refused(league: Any, change: dict[str, Any]) -> None:
    setups = setups_of(league)
    setups[2] = resigned(league, setups[2], **change)
    refused(league, setups, "site-002", "threshold or other study keys")
    with pytest.raises(UpdateRefused):
        league.server().add_setup(setups[2])


def test_a_setup_with_a_victims_own_changed_is_refused(league: Any) -> None:
    setups = setups_of(league)
    setups[0] = replace(setups[0], public=setups[1].public)
    refused(league, setups, "site-000", "given out for this site")


def test_a_stolen_study_key_of_the_dealer_opens_none_of_its_boxes(league: Any) -> None:
    """Nor does its ephemeral key, which is rebuilt when it drops out: a box is sealed from a key that nobody has."""
    session = league.site(1)
    setup = session.setup(1, 1, league.keys)
    sealed_from = [one.box(place)[:32] for one in setups_of(league) for place in range(4)]
    assert len({*sealed_from, setup.public, setup.study_key}) == 4 * 4 + 2  # a new key for each box
    stolen = {"study": league.study["site-001"], "ephemeral": session._secrets[setup.turn].key}
    for key in stolen.values():
        for place, holder in enumerate(league.names):
            if holder != "site-001" or key is stolen["ephemeral"]:
                box = setup.box(place)
                assert open_box(setup.turn, dealer="site-001", holder=holder, holder_key=key, box=box) is None
                static = league.study[holder].public_key().public_bytes_raw()
                assert exchange(key, static) != exchange(league.study[holder], box[:32])


# -- Isolating a victim ------------------------------------------------------------------------------------------------


def test_fake_dropouts_that_leave_a_victim_among_too_few_are_refused(make_league: Any) -> None:
    league = make_league(7)
    announcement = league.until_masked(league.server())
    for numbers in ([0], [0, 1], [0, 1, 2, 3]):
        with pytest.raises(TooFewSites):
            league.site(0).confirm(survivors_of(league, announcement, numbers))
    league.site(0).confirm(survivors_of(league, announcement, range(5)))


def test_an_announcement_of_too_few_is_refused(make_league: Any) -> None:
    league = make_league(7)
    setups = setups_of(league)
    with pytest.raises(TooFewSites):
        league.masked("site-000", announcement_of(league, setups[:4]))


def test_a_fixed_cohort_signs_the_plans_list_and_nothing_less(make_league: Any) -> None:
    """A round without the victim and one with it would give its update."""
    league = make_league(4, cohort="fixed")
    announcement = league.until_masked(league.server())
    with pytest.raises(TooFewSites):
        league.site(0).confirm(survivors_of(league, announcement, range(3)))
    setups = setups_of(league, turn=(2, 1))
    with pytest.raises(TooFewSites):
        league.masked("site-000", announcement_of(league, setups[:3]))


def test_a_site_may_ask_for_more_sites_than_the_plan(make_league: Any) -> None:
    league = make_league(7)
    league.start("site-000", minimum=6)
    announcement = league.until_masked(league.server())
    with pytest.raises(TooFewSites, match="6 or more"):
        league.site(0).confirm(survivors_of(league, announcement, range(5)))
    league.site(0).confirm(survivors_of(league, announcement, range(6)))


def test_survivors_that_were_not_announced_or_leave_the_signer_out_are_refused(make_league: Any) -> None:
    league = make_league(7)
    announcement = league.until_masked(league.server(), setups=league.names[:6])
    with pytest.raises(SetRefused, match="not announced"):
        league.site(0).confirm(survivors_of(league, announcement, range(7)))
    with pytest.raises(SetRefused, match="leaves this site out"):
        league.site(0).confirm(survivors_of(league, announcement, range(1, 6)))


def test_a_dead_model_for_all_but_the_victim_hides_the_victim_still(league: Any, model: bytes) -> None:
    """All others' updates are known to be zero; the lawful sum would be the victim's update, were keys not bound."""
    server = league.server()
    announcement = league.announce(server)
    victim, others = league.names[0], league.names[1:]
    masked, vector, counts = league.masked(victim, announcement, model=b"d" * 32)
    total = vector.copy()
    confirmations = {}
    for name in others:
        zeros, none = np.zeros(league.d, dtype=league.terms.dtype), np.zeros(league.c, dtype=np.uint64)
        league.sessions[name].mask(announcement, model, zeros, none)
        total += zeros
    survivors = survivors_of(league, announcement, range(4))
    for name in league.names:
        confirmations[name] = league.sessions[name].confirm(survivors)
    with pytest.raises(UpdateRefused, match="another model"):
        server.add_masked(masked, vector, counts)
    for name in league.names:
        with pytest.raises(NotConfirmed, match="announcement or model"):
            league.sessions[name].unmask(list(confirmations.values()))
    seeds = [self_keys(announcement.turn, name, seed=secret_of(league, name)[1], announcement=announcement.digest(),
                       model=b"d" * 32 if name == victim else model) for name in league.names]  # fmt: skip
    apply(total, subtract=[keys.vector for keys in seeds])  # were all seeds known even
    assert total.tolist() != league.draw(victim)[0].tolist()


# -- Confirmations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "none",
        "too few",
        "twice",
        "twice among enough",
        "no survivor",
        "forged",
        "by another",
        "other head",
        "of another model",
    ],
)
def test_shares_leave_only_for_t_signatures_of_survivors_on_one_set(make_league: Any, change: str) -> None:
    league = make_league(7)  # t is 5
    server = league.server()
    _, survivors, good = league.until_confirmed(server, masked=league.names[:6])
    outsider = confirmed_by(league, good[0], [6])
    forged = replace(good[4], signature=good[3].signature)
    shown = {
        "none": [],
        "too few": good[:4],
        "twice": [*good[:4], good[3]],
        "twice among enough": [*good[:5], good[3]],
        "no survivor": [*good[:4], *outsider],
        "forged": [*good[:4], forged],
        "by another": [*good[:4], signed(replace(good[4]), league.signing["site-006"])],
        "other head": [*good[:4], replace(good[4], head=b"h" * 32)],
        "of another model": [*good[:4], *confirmed_by(league, good[0], [4], model=b"x" * 32)],
    }[change]
    session = league.site(1)
    with pytest.raises(NotConfirmed):
        session.unmask(shown)
    assert league.memory["site-001"].used.answer is None
    assert session.unmask(good[:5]).survivors == survivors.sites


def test_the_server_refuses_by_name_a_confirmation_or_an_answer_that_does_not_belong(make_league: Any) -> None:
    league = make_league(7)
    server = league.server()
    _, _, good = league.until_confirmed(server, masked=league.names[:6])
    other = confirmed_by(league, good[0], [1], survivors=league.names[:5])[0]
    for wrong in (confirmed_by(league, good[0], [6])[0], other, replace(good[1], signature=bytes(64))):
        with pytest.raises(UpdateRefused) as refusal:
            server.add_confirmation(wrong)
        assert refusal.value.site == wrong.site
    (answer,) = league.answers(server, league.names[:1])
    for changes in ({"signature": bytes(64)}, {"survivors": league.names[:5]}, {"site": "site-006"}):
        with pytest.raises(UpdateRefused):
            server.add_answer(replace(answer, **changes))


# -- Shares ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4], ids=["seed", "key"])
@pytest.mark.parametrize("share", [bytes(33), PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_a_wrong_share_blames_the_answerer_and_the_others_still_suffice(
    make_league: Any, place: int, share: bytes
) -> None:
    league = make_league(5)
    server, left = league.server(), league.names[:4]
    league.until_confirmed(server, masked=left)
    where = 33 * place
    honest = league.answers(server, left)
    content = bytearray(honest[1].shares)
    content[where : where + 33] = share
    bad = signed(replace(honest[1], shares=bytes(content)), league.signing["site-001"])
    with pytest.raises(SiteBlamed, match="'site-001' sent another share") as blame:
        server.add_answer(bad)
    assert (blame.value.site, blame.value.role) == ("site-001", "answerer")
    for answer in (honest[0], honest[2], honest[3], honest[1]):
        server.add_answer(answer)
    assert league.lists(server) == league.expected(left)


@pytest.mark.parametrize("secret", ["seed", "key"])
@pytest.mark.parametrize("shift", [1, PRIME - 1])
def test_shares_of_a_wrong_secret_blame_the_dealer(make_league: Any, monkeypatch: Any, secret: str, shift: int) -> None:
    """Every share matches its commitment; what they give together is not what was promised."""
    from hansa_common.secagg import dealing

    league = make_league(4)
    server, left = league.server(), league.names[:3]
    honest = split
    calls = []

    def wrong(content: bytes, **arguments: Any) -> list[bytes]:
        calls.append(content)
        shares = honest(content, **arguments)
        if len(calls) != {"seed": 1, "key": 2}[secret]:
            return shares
        return [((int.from_bytes(share, "big") + shift) % PRIME).to_bytes(33, "big") for share in shares]

    dealer = {"seed": "site-001", "key": "site-003"}[secret]  # the last one drops out, so its key is rebuilt
    monkeypatch.setattr(dealing, "split", wrong)
    league.sessions[dealer].setup(1, 1, league.keys)
    monkeypatch.setattr(dealing, "split", honest)
    league.until_confirmed(server, masked=left)
    for answer in league.answers(server, left):
        server.add_answer(answer)
    masked = server._vector.copy()
    with pytest.raises(SiteBlamed, match=f"'{dealer}' dealt") as blame:
        server.sum()
    assert (blame.value.site, blame.value.role) == (dealer, "dealer")
    assert server._vector.tolist() == masked.tolist()


def test_a_dealer_that_commits_to_a_share_outside_the_field_is_blamed(make_league: Any, monkeypatch: Any) -> None:
    from hansa_common.secagg import dealing

    league = make_league(3)
    monkeypatch.setattr(dealing, "split", lambda content, **arguments: [b"\xff" * 33] * 3)
    league.site(1).setup(1, 1, league.keys)
    monkeypatch.undo()
    server = league.server()
    league.until_confirmed(server)
    for answer in league.answers(server, league.names):
        server.add_answer(answer)
    with pytest.raises(SiteBlamed) as blame:
        server.sum()
    assert (blame.value.site, blame.value.role) == ("site-001", "dealer")


# -- What the server can compute ---------------------------------------------------------------------------------------


def secret_of(league: Any, name: str) -> Any:
    """Key and seed that a site dealt, through what all the others were dealt: for looking over its shoulder."""
    announcement = league.last
    setup = next(setup for setup in announcement.setups if setup.site == name)
    places = range(league.terms.threshold)
    shares = []
    for place in places:
        holder = league.names[place]
        shares.append(
            open_box(setup.turn, dealer=name, holder=holder, holder_key=league.study[holder], box=setup.box(place))
        )
    coefficients = weights([place + 1 for place in places])
    opened = [one for one in shares if one is not None]
    return combine(coefficients, [one.key for one in opened]), combine(coefficients, [one.seed for one in opened])


def test_a_late_upload_stays_masked(make_league: Any) -> None:
    """Its key was rebuilt as that of a dropout; its seed was not, and never will be."""
    league = make_league(4)
    server, left, late = league.server(), league.names[:3], league.names[3]
    announcement, _, _ = league.until_confirmed(server, masked=left)
    answers = league.answers(server, left)
    for answer in answers:
        server.add_answer(answer)
    assert league.lists(server) == league.expected(left)
    masked, vector, counts = league.masked(late, announcement)
    with pytest.raises(UpdateRefused, match="after the sum was closed"):
        server.add_masked(masked, vector, counts)

    coefficients = weights([1, 2, 3])
    rebuilt = combine(coefficients, [answer.share(3) for answer in answers])
    assert rebuilt is not None
    key = X25519PrivateKey.from_private_bytes(rebuilt)
    bound = {"announcement": announcement.digest(), "model": masked.model}
    for setup in announcement.setups[:3]:
        secret = exchange(key, setup.public)
        assert secret is not None
        apply(vector, add=[pair_keys(masked.turn, setup.site, late, secret=secret, **bound).vector])
    plain = league.draw(late)[0].tolist()
    assert vector.tolist() != plain
    seed = secret_of(league, late)[1]
    apply(vector, subtract=[self_keys(masked.turn, late, seed=seed, **bound).vector])
    assert vector.tolist() == plain  # so the seed is all that hid it, and the attack above was done right


@pytest.mark.parametrize("removed", ["self", "pair", "nothing"])
def test_every_single_mask_hides(make_league: Any, removed: str, model: bytes) -> None:
    """Take all masks but one off an upload: it is as hidden as before."""
    league = make_league(3)
    announcement = league.announce(league.server())
    name = league.names[1]
    masked, vector, _ = league.masked(name, announcement)
    bound = {"announcement": announcement.digest(), "model": model}
    key, seed = secret_of(league, name)
    own = self_keys(masked.turn, name, seed=seed, **bound).vector
    pairs = []
    for setup in (announcement.setups[0], announcement.setups[2]):
        agreed = exchange(X25519PrivateKey.from_private_bytes(key), setup.public)
        assert agreed is not None
        pairs.append(pair_keys(masked.turn, name, setup.site, secret=agreed, **bound).vector)
    low, high = pairs
    plain = league.draw(name)[0].tolist()
    if removed != "self":
        apply(vector, subtract=[own])
        assert vector.tolist() != plain
    apply(vector, add=[low])
    assert vector.tolist() != plain
    if removed != "pair":
        apply(vector, subtract=[high])
    assert (vector.tolist() == plain) == (removed == "nothing")


# -- Restored backups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", ["setup", "confirmation", "another setup"])
def test_a_restored_backup_stops_at_its_own_newer_signature_until_it_has_a_new_key(
    make_league: Any, replaced_key: Any, shown: str
) -> None:
    league = make_league(4)
    backup = league.memory["site-000"]
    server = league.server()
    announcement, survivors, confirmations = league.until_confirmed(server)
    league.memory["site-000"] = backup
    session = league.start("site-000")
    if shown == "another setup":
        session.setup(1, 1, league.keys)
    steps = {"confirmation": lambda: session.unmask(confirmations, announcement=announcement)}
    with pytest.raises(RolledBack):
        steps.get(shown, lambda: session.accept(announcement))()
    for stopped in (session, league.start("site-000")):
        with pytest.raises(RolledBack):
            stopped.setup(2, 1, league.keys)
        with pytest.raises(RolledBack):
            stopped.accept(announcement)
        with pytest.raises(RolledBack):
            stopped.confirm(survivors)
        with pytest.raises(RolledBack):
            stopped.unmask(confirmations)
    replaced_key(league, "site-000")
    league.site(0).setup(2, 1, league.keys)
    with pytest.raises(RoundReplayed, match="earlier study key"):
        league.site(0).accept(announcement)
    with pytest.raises(OutOfTurn):
        league.site(0).unmask(confirmations)
    assert league.memory["site-000"].stopped == ""


def test_a_forged_newer_signature_stops_nobody(league: Any) -> None:
    league.site(0).setup(1, 1, league.keys)
    setups = setups_of(league, turn=(2, 1))
    league.start("site-000")
    league.memory["site-000"] = SiteMemory()
    session = league.start("site-000")
    forged = replace(setups[0], signature=setups[1].signature)
    with pytest.raises(SetupRefused, match="not signed by it"):
        session.accept(announcement_of(league, [forged, *setups[1:]]))
    session.setup(2, 1, league.keys)


# -- Secrets are not shown ---------------------------------------------------------------------------------------------


def test_no_repr_shows_a_key(make_league: Any) -> None:
    league = make_league(3)
    server = league.server()
    setup = league.site(0).setup(1, 1, league.keys)
    secrets = league.site(0)._secrets[setup.turn]
    announcement = league.announce(server)
    league.site(0).accept(announcement)
    accepted = league.site(0)._accepted
    hidden = [secrets.seed, secrets.key.private_bytes_raw(), *accepted.agreed.values()]
    hidden += [share for both in accepted.shares.values() for share in (both.seed, both.key)]
    shown = [repr(one) for one in (secrets, accepted, *accepted.shares.values(), setup, announcement, server)]
    server.add_masked(*league.masked("site-000", announcement))
    for name in league.names[1:]:
        server.add_masked(*league.masked(name, announcement))
    survivors = server.survivors()
    for name in league.names:
        server.add_confirmation(league.sessions[name].confirm(survivors))
    answers = league.answers(server, league.names)
    keys = self_keys(setup.turn, "site-000", seed=secrets.seed, announcement=bytes(32), model=bytes(32))
    hidden += [keys.vector, keys.counts, *(answer.share(0) for answer in answers)]
    shown += [repr(one) for one in (keys, *answers, league.site(0), league.site(0).memory, league.keys[0])]
    for secret in hidden:
        for form in (secret.hex(), repr(secret)[2:-1], str(list(secret))):
            assert all(form not in text for text in shown)


def test_a_study_key_statement_is_of_this_plan_only(make_league: Any) -> None:
    league = make_league(4)
    other = Terms(plan_digest="cd" * 32, sites=league.names, cohort="changing", ring_bits=32)
    statement = league.keys[1]
    with pytest.raises(MessageError, match="another plan"):
        StudyKey.from_bytes(statement.to_bytes(), other)
    moved = replace(statement, terms=other, turn=replace(statement.turn, plan_digest=other.plan_digest))
    session = league.start("site-000", terms=other)
    with pytest.raises(KeyRefused, match="site-001"):
        session.setup(1, 1, [session.study_key_statement(), moved, *league.keys[2:]])
    assert public_hex(league.signing["site-001"]) == league.directory["site-001"]
