"""Random histories: a server and sites that keep to the protocol, a network and machines that fail, and a liar.

The network loses, repeats, delays and reorders; sites and server are killed and started in every phase. The liar holds
the server's place now and then: it sends any set of survivors, any part of the announcement, and signatures of as many
sites as may collude. Whatever happens:

* a sum that is opened is that of the plain words, bit for bit;
* no site ever signs two sets for one turn;
* no site ever gives both its shares of one site's secrets in one turn, nor masks twice in it;
* without the liar, no site ever refuses for another reason than that something is over, early or lost.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from hansa_common.errors import MaskingRefused, OutOfTurn, RoundReplayed, RoundVoid, SetupLost, UpdateRefused
from hansa_common.secagg import (
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    ServerSession,
    Setup,
    Survivors,
    Turn,
    agreement,
    dealing,
    server_session,
    site_session,
)
from hansa_common.secagg.agreement import check_keys, is_signed, signed

Message = tuple[str, str, Any]  # receiver ("" is the server), kind, content as it travels


class Histories(RuleBasedStateMachine):
    """One study of three to five sites."""

    make_league: ClassVar[Callable[..., Any]]
    outcomes: ClassVar[Counter[str]]

    @initialize(n=st.sampled_from([3, 4, 4, 5]), fixed=st.booleans(), bits=st.sampled_from([16, 32]))
    def begin(self, n: int, fixed: bool, bits: int) -> None:
        self.league = type(self).make_league(n, cohort="fixed" if fixed else "changing", bits=bits, d=2, c=1)
        self.turn = (1, 1)
        self.flight: list[Message] = []
        self.uploads: dict[tuple[str, Turn], tuple[bytes, Any, Any]] = {}
        self.signed: dict[tuple[str, Turn], tuple[str, ...]] = {}
        self.shared: dict[tuple[str, Turn, str], str] = {}
        self.collected: list[Confirmation] = []
        self.colluders = self.league.names[: self.league.terms.colluders]
        self.lied = False
        self.setups: dict[tuple[int, int], dict[str, Setup]] = {}
        self.fresh_turn()

    # -- The server: what it keeps on its disk, and its process ------------------------------------------------------

    def fresh_turn(self) -> None:
        self.announced: Announcement | None = None
        self.decided: Survivors | None = None
        self.received: dict[str, tuple[MaskedInput, Any, Any]] = {}
        self.start_server()
        self.asked = False

    def start_server(self) -> None:
        self.server: ServerSession = self.league.server(*self.turn)
        self.closed = False
        if self.announced is None:
            for setup in self.setups.get(self.turn, {}).values():
                self.server.add_setup(setup)
            return
        model = self.model_of(self.announced.turn)
        self.server.resume(announcement=self.announced, model_digest=model, survivors=self.decided)
        for upload in self.received.values():
            self.server.add_masked(*upload)

    @staticmethod
    def model_of(turn: Turn) -> bytes:
        return turn.digest("model of a test")

    def send(self, kind: str, message: Any, receivers: Any = None) -> None:
        content = message.to_bytes() if hasattr(message, "to_bytes") else message
        self.flight += [(name, kind, content) for name in (receivers or self.league.names)]

    def advance(self) -> None:
        """Do what comes next, as far as it goes."""
        try:
            if self.announced is None:
                if self.turn not in self.setups or not self.asked:
                    self.setups.setdefault(self.turn, {})
                    self.asked = True
                    self.send("setup", self.turn)
                    return
                self.announced = self.server.announce(self.model_of(Turn(
                    plan_digest=self.league.terms.plan_digest, round=self.turn[0], attempt=self.turn[1])))  # fmt: skip
                self.send("announcement", self.announced, self.announced.sites)
            elif self.decided is None:
                self.decided = self.server.survivors()
                self.send("survivors", self.decided, self.decided.sites)
            else:
                self.open_or_ask(self.decided)
        except RoundVoid as void:
            self.outcomes[f"waits for {void.phase}"] += 1
            repeat = {"masked-input": ("announcement", self.announced), "confirmation": ("survivors", self.decided)}
            if void.phase == "setup":
                self.send("setup", self.turn)
            elif void.phase in repeat:
                self.send(*repeat[void.phase], void.missing)
            else:
                self.send("unmask", [one.to_bytes() for one in self.server.confirmations()], void.missing)

    def open_or_ask(self, decided: Survivors) -> None:
        self.server.confirmations()
        vector, counts = self.server.sum()
        assert (vector.tolist(), counts.tolist()) == self.league.expected(decided.sites, self.seed(decided.turn))
        self.outcomes["opened"] += 1
        self.outcomes["opened with dropouts"] += len(decided.sites) < self.league.terms.n
        self.outcomes["opened after a lie"] += self.lied
        self.next_turn(retry=False)

    def give_up(self, retry: bool) -> None:
        if self.announced is not None:
            self.outcomes["given up"] += 1
            self.next_turn(retry=retry)

    def next_turn(self, *, retry: bool) -> None:
        self.turn = (self.turn[0], self.turn[1] + 1) if retry else (self.turn[0] + 1, 1)
        self.fresh_turn()

    def at_server(self, kind: str, content: Any) -> None:
        terms, server = self.league.terms, self.server
        try:
            if kind == "setup":
                setup = Setup.from_bytes(content, terms)
                turn = (setup.turn.round, setup.turn.attempt)
                if turn == self.turn and self.announced is None:
                    server.add_setup(setup)
                self.setups.setdefault(turn, {})[setup.site] = setup
            elif kind == "masked" and self.announced is not None:
                upload = (MaskedInput.from_bytes(content[0], terms), content[1], content[2])
                server.add_masked(*upload)
                self.received[upload[0].site] = upload
            elif kind == "confirmation":
                confirmation = Confirmation.from_bytes(content, terms)
                self.collected.append(confirmation)
                if self.decided is not None:
                    server.add_confirmation(confirmation)
            elif kind == "answer" and self.decided is not None:
                server.add_answer(Answer.from_bytes(content, terms))
        except UpdateRefused:
            self.outcomes["refused at the server"] += 1

    # -- The sites ---------------------------------------------------------------------------------------------------

    def at_site(self, name: str, kind: str, content: Any) -> None:
        session, terms = self.league.sessions[name], self.league.terms
        try:
            match kind:
                case "setup":
                    self.reply("setup", session.setup(*content, self.league.keys))
                case "announcement":
                    announcement = Announcement.from_bytes(content, terms)
                    self.mask(name, announcement)
                    if announcement.turn.attempt == 1 and name == self.league.names[0]:
                        self.reply("setup", session.setup(announcement.turn.round + 1, 1, self.league.keys))
                case "survivors":
                    confirmation = session.confirm(Survivors.from_bytes(content, terms))
                    key = (name, confirmation.turn)
                    assert self.signed.setdefault(key, confirmation.survivors) == confirmation.survivors
                    self.reply("confirmation", confirmation)
                case _:
                    shown = [Confirmation.from_bytes(one, terms) for one in content]
                    self.note(answer := session.unmask(shown, announcement=self.announced))
                    self.reply("answer", answer)
        except MaskingRefused as refusal:
            self.outcomes[type(refusal).__name__] += 1
            if not self.lied and not isinstance(refusal, RoundReplayed | OutOfTurn | SetupLost):
                raise

    def mask(self, name: str, announcement: Announcement) -> None:
        """As an agent does: what was masked is stored, and only that is sent, however often it is asked for."""
        key = (name, announcement.turn)
        if key not in self.uploads:
            vector, counts = self.league.draw(name, self.seed(announcement.turn))
            model = self.model_of(announcement.turn)
            masked = self.league.sessions[name].mask(announcement, model, vector, counts)
            self.uploads[key] = masked.to_bytes(), vector, counts
        self.flight.append(("", "masked", self.uploads[key]))

    def note(self, answer: Answer) -> None:
        """Hold every share that ever left against those before; a lost answer may have been read too."""
        terms = self.league.terms
        for place, dealer in enumerate(terms.sites):
            if any(answer.share(place)):
                kind = "seed" if dealer in answer.survivors else "key"
                assert self.shared.setdefault((answer.site, answer.turn, dealer), kind) == kind
        assert self.signed[answer.site, answer.turn] == answer.survivors

    def reply(self, kind: str, message: Any) -> None:
        self.flight.append(("", kind, message.to_bytes()))

    @staticmethod
    def seed(turn: Turn) -> int:
        return 1000 * turn.round + turn.attempt

    # -- The network -------------------------------------------------------------------------------------------------

    @rule(
        seed=st.integers(0, 2**16),
        steps=st.sampled_from([6, 3, 4, 5, 7, 8]),
        trouble=st.sampled_from([0.1, 0.0, 0.3]),
        lies=st.sampled_from([0.0, 0.0, 0.4]),
        event=st.sampled_from(["nothing", "nothing", "restart server", "restart site", "give up", "retry"]),
    )
    def go_on(self, seed: int, steps: int, trouble: float, lies: float, event: str) -> None:
        chance = random.Random(seed)
        if event == "restart server":
            self.start_server()
        elif event == "restart site":
            self.league.start(chance.choice(self.league.names))
        elif event != "nothing":
            self.give_up(retry=event == "retry")
        for _ in range(steps):
            self.advance()
            if chance.random() < lies:
                self.lie(chance)
            for _ in ("requests", "replies"):
                self.deliver(chance, trouble)
            if chance.random() < trouble / 2:
                self.start_server()

    def deliver(self, chance: random.Random, trouble: float) -> None:
        """Deliver what is under way, in any order; some of it never, later or twice, some to a machine just started."""
        flight, self.flight = self.flight, []
        if trouble:
            chance.shuffle(flight)
        for message in flight:
            fate = chance.random()
            if fate < trouble / 3:
                continue
            if fate < trouble:
                self.flight.append(message)
            if fate < trouble / 2:
                continue
            receiver, kind, content = message
            if receiver == "":
                self.at_server(kind, content)
            else:
                if chance.random() < trouble / 10:
                    self.league.start(receiver)
                self.at_site(receiver, kind, content)

    # -- The liar ----------------------------------------------------------------------------------------------------

    def lie(self, chance: random.Random) -> None:
        if self.announced is None:
            return
        terms, kind = self.league.terms, chance.choice(["survivors", "unmask", "announcement"])
        self.outcomes["lies"] += 1
        self.lied = True
        some = tuple(site for site in terms.sites if chance.random() < 0.8)
        survivors = Survivors(terms=terms, turn=self.announced.turn, announcement=self.announced.digest(), sites=some)
        if kind == "survivors":
            self.send(kind, survivors)
        elif kind == "announcement":
            setups = tuple(setup for setup in self.announced.setups if setup.site in some)
            self.send(kind, replace(self.announced, setups=setups))
        elif self.collected:
            last = self.collected[-1]
            forged = [
                signed(replace(last, site=site, survivors=some), self.league.signing[site]) for site in self.colluders
            ]
            honest = [one for one in self.collected if one.survivors == some and one.site not in self.colluders]
            real = [one for one in self.collected if chance.random() < 0.5]
            self.send(kind, [one.to_bytes() for one in (*forged, *honest, *real)], self.league.names[terms.colluders :])


def run(make_league: Callable[..., Any], histories: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    known: dict[Any, bool] = {}

    def remembered(message: Any, directory: Any) -> bool:
        """Each signature is verified once, not once at each site: most of the time went there."""
        key = (message.to_bytes(), directory.get(message.site))
        if key not in known:
            known[key] = is_signed(message, directory)
        return known[key]

    keys: dict[Any, dict[str, bytes]] = {}

    def remembered_keys(given: Any, terms: Any, directory: Any) -> dict[str, bytes]:
        key = (terms.n, terms.cohort, tuple(directory), tuple(one.to_bytes() for one in given))
        if key not in keys:
            keys[key] = check_keys(given, terms, directory)
        return keys[key]

    monkeypatch.setattr(site_session, "check_keys", remembered_keys)
    for module in (agreement, dealing, server_session, site_session):
        monkeypatch.setattr(module, "is_signed", remembered)

    class Machine(Histories):
        outcomes: ClassVar[Counter[str]] = Counter()

    Machine.make_league = staticmethod(make_league)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=2,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Machine.outcomes


def test_five_hundred_histories(make_league: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = run(make_league, 500, monkeypatch)
    assert outcomes["opened"] > 50
    assert outcomes["lies"] > 50
    assert outcomes["SecondStory"] > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_histories(make_league: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = run(make_league, 10_000, monkeypatch)
    assert outcomes["opened"] > 1000
