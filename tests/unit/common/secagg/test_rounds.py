"""Whole rounds: the sum is that of the plain words, bit for bit, or the round is void."""

from typing import Any

import numpy as np
import pytest

from hansa_common.errors import OutOfTurn, RoundReplayed, RoundVoid, SetupLost, UpdateRefused


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize(("n", "dropped"), [(3, 0), (4, 0), (4, 1), (7, 2), (10, 3)])
def test_the_sum_is_that_of_the_survivors_bit_for_bit(make_league: Any, n: int, dropped: int, bits: int) -> None:
    league = make_league(n, bits=bits, d=1000)
    server = league.server()
    left = league.names[: n - dropped]
    _, survivors, _ = league.until_confirmed(server, masked=left)
    assert survivors.sites == left
    for answer in league.answers(server, left[: league.terms.threshold]):
        server.add_answer(answer)
    assert league.lists(server) == league.expected(left)
    assert server.sum()[0] is server.sum()[0]


def test_a_site_that_set_up_nothing_is_not_waited_for(make_league: Any) -> None:
    league = make_league(5)
    server = league.server()
    four = league.names[1:]
    announcement, survivors, _ = league.until_confirmed(server, setups=four)
    assert announcement.sites == survivors.sites == four
    for answer in league.answers(server, four):
        server.add_answer(answer)
    assert league.lists(server) == league.expected(four)


def test_vector_or_counts_alone_may_be_empty(make_league: Any) -> None:
    for sizes in ({"d": 0, "c": 3}, {"d": 3, "c": 0}):
        league = make_league(3, **sizes)
        server = league.server()
        _, survivors, _ = league.until_confirmed(server)
        for answer in league.answers(server, survivors.sites):
            server.add_answer(answer)
        assert league.lists(server) == league.expected(league.names)


def test_a_setup_may_come_a_round_ahead_and_a_void_round_is_tried_again(league: Any) -> None:
    ahead = {name: league.sessions[name].setup(2, 1, league.keys) for name in league.names}
    for turn in [(1, 1), (1, 2), (2, 1)]:
        server = league.server(*turn)
        for name in league.names:
            server.add_setup(ahead[name] if turn == (2, 1) else league.sessions[name].setup(*turn, league.keys))
        announcement = server.announce(b"m" * 32)
        for name in league.names:
            server.add_masked(*league.masked(name, announcement, model=b"m" * 32))
        survivors = server.survivors()
        for name in league.names:
            server.add_confirmation(league.sessions[name].confirm(survivors))
        for answer in league.answers(server, league.names):
            server.add_answer(answer)
        assert league.lists(server) == league.expected(league.names)
        assert [session.opened.round for session in league.sessions.values()] == [turn[0]] * 4


@pytest.mark.parametrize("phase", ["setup", "masked-input", "confirmation", "unmask"])
def test_a_round_with_too_few_sites_is_void_and_says_where_and_who(league: Any, phase: str) -> None:
    server, names = league.server(), league.names

    def go_as_far_as_it_goes() -> None:
        if phase == "setup":
            league.announce(server, names[:2])
        league.until_masked(server, masked=names[:2] if phase == "masked-input" else names)
        survivors = server.survivors()
        confirmations = [league.sessions[name].confirm(survivors) for name in names]
        for confirmation in confirmations[:2] if phase == "confirmation" else confirmations:
            server.add_confirmation(confirmation)
        for answer in league.answers(server, names[:2]):
            server.add_answer(answer)
        server.sum()

    with pytest.raises(RoundVoid) as void:
        go_as_far_as_it_goes()
    assert void.value.phase == phase
    assert void.value.missing == names[2:]
    assert void.value.opened == (phase in {"confirmation", "unmask"})


def test_a_fixed_cohort_sums_all_sites_or_none(make_league: Any) -> None:
    league = make_league(4, cohort="fixed")
    with pytest.raises(RoundVoid, match="site-003"):
        league.announce(league.server(), league.names[:3])
    league = make_league(4, cohort="fixed")
    server = league.server()
    league.until_masked(server, masked=league.names[:3])
    with pytest.raises(RoundVoid, match="site-003"):
        server.survivors()


def test_a_site_restarted_after_masking_confirms_and_answers_from_its_memory(make_league: Any) -> None:
    league = make_league(4)
    server, left = league.server(), league.names[:3]
    announcement = league.until_masked(server, masked=left)
    survivors = server.survivors()
    for name in left:
        league.start(name)
        server.add_confirmation(league.sessions[name].confirm(survivors))
    for name in left:
        with pytest.raises(SetupLost, match="announcement again"):
            league.start(name).unmask(server.confirmations())
        answer = league.sessions[name].unmask(server.confirmations(), announcement=announcement)
        assert league.start(name).unmask(server.confirmations()) == answer
        server.add_answer(answer)
    assert league.lists(server) == league.expected(left)


def test_a_site_restarted_before_masking_sits_the_round_out(league: Any) -> None:
    server = league.server()
    announcement = league.announce(server)
    session = league.start("site-000")
    with pytest.raises(SetupLost):
        session.setup(1, 1, league.keys)
    with pytest.raises(SetupLost):
        league.masked("site-000", announcement)
    session.setup(1, 2, league.keys)


def test_a_server_restarted_in_every_phase_goes_on_with_what_it_decided(league: Any) -> None:
    first = league.server()
    announcement = league.announce(first)
    uploads = [league.masked(name, announcement) for name in league.names]
    second = league.server()
    second.resume(announcement=announcement, model_digest=uploads[0][0].model)
    for upload in uploads[:3]:
        second.add_masked(*upload)
    survivors = second.survivors()
    third = league.server()
    third.resume(announcement=announcement, model_digest=uploads[0][0].model, survivors=survivors)
    with pytest.raises(UpdateRefused, match="after the sum was closed"):
        third.add_masked(*uploads[3])
    for name in survivors.sites:
        third.add_confirmation(league.sessions[name].confirm(survivors))
    for answer in league.answers(third, survivors.sites):
        third.add_answer(answer)
    with pytest.raises(RuntimeError, match="not added again"):
        third.sum()
    for upload in uploads[:3]:
        third.add_masked(*upload)
    assert third.survivors() == survivors
    assert third.announce(uploads[0][0].model) == announcement
    assert league.lists(third) == league.expected(survivors.sites)


def test_what_is_asked_twice_is_answered_with_the_same_bytes(league: Any) -> None:
    server = league.server()
    session = league.site(0)
    assert session.setup(1, 1, league.keys) is session.setup(1, 1, league.keys)
    _, survivors, confirmations = league.until_confirmed(server)
    assert session.confirm(survivors, head=b"x" * 32) == confirmations[0]
    answer = session.unmask(confirmations[:3])
    assert session.unmask(confirmations[1:]) == answer


def test_a_step_that_cannot_be_made_durable_does_not_happen(league: Any, model: bytes) -> None:
    server = league.server()
    announcement = league.announce(server)

    def fail(memory: object) -> None:
        raise OSError

    session = league.site(0)
    session.accept(announcement)
    session._save = fail
    vector, counts = league.draw("site-000")
    with pytest.raises(OSError):
        session.mask(announcement, model, vector, counts)
    assert vector.tolist() == league.draw("site-000")[0].tolist()
    with pytest.raises(OSError):
        session.setup(2, 1, league.keys)
    assert session.memory == league.memory["site-000"]


def test_steps_out_of_turn_are_refused(league: Any) -> None:
    server = league.server()
    announcement = league.until_masked(server, masked=league.names[1:])
    survivors = server.survivors()
    with pytest.raises(OutOfTurn):
        league.site(0).confirm(survivors)
    confirmations = [league.sessions[name].confirm(survivors) for name in league.names[1:]]
    with pytest.raises(OutOfTurn):
        league.site(0).unmask(confirmations)
    assert announcement.sites == league.names
    with pytest.raises(RoundReplayed):
        league.site(1).setup(1, 1, league.keys)
    for step in (server.sum, lambda: server.add_setup(league.site(1).setup(2, 1, league.keys))):
        with pytest.raises((RuntimeError, RoundVoid)):
            step()


def test_the_server_refuses_by_name_what_does_not_belong(league: Any, model: bytes) -> None:
    server = league.server()
    announcement = league.announce(server)
    masked, vector, counts = league.masked("site-000", announcement)
    for wrong in (vector[:-1], vector.astype(np.uint16), vector.reshape(1, -1)):
        with pytest.raises(UpdateRefused, match="size or type"):
            server.add_masked(masked, wrong, counts)
    other, *_ = league.masked("site-001", announcement, model=b"x" * 32)
    with pytest.raises(UpdateRefused, match="another model") as refusal:
        server.add_masked(other, vector, counts)
    assert refusal.value.site == "site-001"
    server.add_masked(masked, vector, counts)
    with pytest.raises(UpdateRefused, match="already"):
        server.add_masked(masked, vector, counts)


def test_a_simulated_site_may_move_between_processes(make_league: Any) -> None:
    league = make_league(4)
    server, left = league.server(), league.names[:3]

    def move() -> None:
        for name in league.names:
            secrets = league.sessions[name].unsafe_export_secrets()
            league.start(name).unsafe_restore_secrets(secrets)

    announcement = league.announce(server)
    move()
    for name in left:
        server.add_masked(*league.masked(name, announcement))
    survivors = server.survivors()
    move()
    for name in left:
        server.add_confirmation(league.sessions[name].confirm(survivors))
    move()
    for answer in league.answers(server, left):
        server.add_answer(answer)
    assert league.lists(server) == league.expected(left)
