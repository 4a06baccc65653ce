"""Conducts rounds whose updates are masked: setup, masked inputs, confirmation, unmasking, sum.

The protocol is ``hansa_common.secagg``; here its steps become exchanges with the sites. What the server decides, which
sites take part and which are added, is on the disk before any site is told: a process that is killed and started again
tells no second story. A round that comes to nothing is tried again as another attempt, with new setups.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeVar

import numpy as np
from pydantic import ValidationError

from hansa_common.errors import MessageError, RoundVoid, SiteBlamed, StorageError, StudyFailed, UpdateRefused
from hansa_common.failpoints import reach
from hansa_common.messages import (
    Confirmed,
    ConfirmTask,
    EvaluateTask,
    ExplainTask,
    MaskedEvaluated,
    MaskedExplained,
    MaskedUpdate,
    Message,
    Opened,
    SetUp,
    SetupTask,
    StatisticsTask,
    Sums,
    TrainTask,
    Unmasked,
    UnmaskTask,
)
from hansa_common.metrics import Counts
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan
from hansa_common.protection import seen_digest, terms_of
from hansa_common.secagg import (
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    ServerSession,
    Setup,
    StudyKey,
    Survivors,
    Words,
)
from hansa_common.settings import Strict
from hansa_server.exchange import Answer as Reply
from hansa_server.exchange import Deadline, by_basis, problem_of
from hansa_server.store import RunFolder

ATTEMPTS: Final = 8  # of one round in one run; each costs a training
_REPEATS: Final = 3
_GRACE: Final = 2.0  # seconds for the sites that are not needed any more
_FILE: Final = "masking.json"
_log = logging.getLogger(__name__)
_Parsed = TypeVar("_Parsed", Setup, Confirmation, Answer)
MaskedHeader = MaskedUpdate | MaskedEvaluated | MaskedExplained


class Decided(Strict):
    """What the server said in the newest turn; the file is written before anything of it is sent.

    Evolution: fields are added as optional; ``format`` counts up when a meaning changes.
    """

    format: Literal[1] = 1
    round: int
    attempt: int
    announcement: str = ""
    survivors: str = ""
    void: tuple[str, ...] = ()
    """Why earlier attempts at this round came to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedSum:
    """What a masked round brought.

    Attributes:
        survivors: The sites that are in the sum, ascending.
        vector: ``uint16`` or ``uint32 [P]``; empty where only counts were asked for.
        sums: ``uint64``, the sum of the counts.
        headers: What each survivor sent beside it.
        shown: Counts of those sites whose own policy lets them out.
        missing: Why the others are not in it.
        void: Why the round had to be repeated.
    """

    survivors: tuple[str, ...]
    vector: Words = field(repr=False)
    sums: Sums = field(repr=False)
    headers: Mapping[str, MaskedHeader]
    shown: Mapping[str, Mapping[str, Counts]] = field(repr=False)
    missing: Mapping[str, str]
    void: tuple[str, ...]


class Ask(Protocol):
    """Asks sites by name."""

    def __call__(self, requests: Sequence[tuple[str, Message]], deadline: Deadline) -> Iterator[tuple[str, Reply]]:
        """Yield one answer for each request, as they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the sites are asked to do in a masked round.

    Attributes:
        number: Of the round.
        parameters: ``float32 [P]``, the model they start from.
        size: ``P`` where updates are summed, 0 where only counts are.
        counts: How many sums of counts there are.
        task: Makes the task's header from the attempt at this round and at the next one.
        basis: The round on whose state a site builds; 0 for a site that is not named.
        is_declared: Tells whether counts that a site shows beside its masked ones are of the splits that it declared;
            what is not is taken for not shown. By default nothing is.
    """

    number: int
    parameters: Vector = field(repr=False)
    size: int
    counts: int
    task: Callable[[int, int], TrainTask | EvaluateTask | ExplainTask | StatisticsTask]
    basis: Mapping[str, int] = field(default_factory=dict)
    is_declared: Callable[[str, Mapping[str, Counts]], bool] = lambda _site, _counts: False


class MaskedRounds:
    """The masked rounds of one study.

    Args:
        plan: The study.
        sites: The plan's list, in any order.
        opened: What each site that takes part said when the study was opened.
        ask: Reaches them.
        folder: Of the run.
        run: Counts up when an operator resumes the study.
        said: Called for each site that answered, with its problem, in the exchange that trains.
        signers: The sites' signing keys, from the roster; a simulation's sites bring theirs.
    """

    def __init__(
        self,
        *,
        plan: StudyPlan,
        sites: Sequence[str],
        opened: Mapping[str, Opened],
        ask: Ask,
        folder: RunFolder,
        run: int,
        said: Callable[[str, str], None],
        signers: Mapping[str, str],
    ) -> None:
        self.terms = terms_of(plan, sites)
        self._plan, self._digest = plan, plan.digest()
        self._ask, self._folder, self._said = ask, folder, said
        self._run, self._first = run, (run - 1) * ATTEMPTS + 1
        self._keys: dict[str, StudyKey] = {}
        self._signers = dict(signers)
        self._simulated = not signers
        self.refused: dict[str, str] = {}
        """Sites that opened the study without a key for it."""
        for site, header in sorted(opened.items()):
            self._introduce(site, header)
        self._setups: dict[tuple[int, int], dict[str, Setup]] = {}

    def _introduce(self, site: str, header: Opened) -> None:
        try:
            key = StudyKey.from_bytes(bytes.fromhex(header.study_key or ""), self.terms)
        except MessageError as error:
            self.refused[site] = f"It sent no key for secure aggregation: {error.message}"
            return
        if key.site != site:
            self.refused[site] = "It sent another site's key for secure aggregation."
            return
        self._keys[site] = key
        if self._simulated and header.signing_key is not None:
            self._signers[site] = header.signing_key

    def number_after(self, place: int) -> int:
        """Return the number of a sum after the plan's last round; those of a resumed study come after all before.

        A site takes no part in a round that is before one in which it has masked, and the run before may have got to
        its last.

        Args:
            place: 1 for the last model's counts, 2 for its explanation.
        """
        return self._plan.rounds.count + 2 * (self._run - 1) + place

    def sum(self, job: Job) -> MaskedSum:
        """Bring one round to its sum, in as many attempts as it takes and may take.

        Raises:
            StudyFailed: It did not come about, or a site broke the protocol; the message names who.
            StorageError: What must be durable before it is sent could not be written.
        """
        decided = self._load(job.number)
        while True:
            try:
                return self._attempt(job, decided)
            except RoundVoid as void:
                reason = f"attempt {decided.attempt}: {void.message}"
                decided = Decided(round=job.number, attempt=decided.attempt + 1, void=(*decided.void, reason))
                self._save(decided)
                if len(decided.void) >= _REPEATS:
                    raise StudyFailed(
                        "\n".join([f"Round {job.number} came to nothing {_REPEATS} times:", *decided.void]),
                        advice="Mend what the sites report, then resume the study; nothing of these attempts counts.",
                    ) from None
                _log.warning("round %d is repeated: %s", job.number, reason)
            except SiteBlamed as error:
                raise StudyFailed(
                    f"Round {job.number}: {error.message}",
                    advice=f"The study pauses: ask {error.site} why, or expel it; then resume. {error.advice}",
                ) from None

    def _attempt(self, job: Job, decided: Decided) -> MaskedSum:
        session = ServerSession(
            terms=self.terms,
            round_number=job.number,
            attempt=decided.attempt,
            size=job.size,
            counts=job.counts,
            keys=tuple(self._keys.values()),
            directory=self._signers,
        )
        missing: dict[str, str] = dict(self.refused)
        model = seen_digest(job.task(decided.attempt, self._first), job.parameters)
        announcement, survivors = self._restore(session, decided, model)
        if announcement is None:
            self._collect_setups(session, job.number, decided.attempt, missing)
            announcement = session.announce(model)
            decided = decided.model_copy(update={"announcement": announcement.to_bytes().hex()})
            self._save(decided)
        reach("study.masking.announced")
        headers, shown = self._collect_masked(session, job, decided.attempt, announcement, missing)
        if survivors is None:
            survivors = session.survivors()
            self._save(decided.model_copy(update={"survivors": survivors.to_bytes().hex()}))
        elif lost := [site for site in survivors.sites if site not in headers]:
            raise RoundVoid(
                f"The masked inputs of {', '.join(lost)} did not come again after a restart.",
                phase="masked-input",
                missing=tuple(lost),
                opened=True,
            )
        reach("study.masking.closed")
        confirmed = self._collect_confirmations(session, decided, survivors)
        reach("study.masking.confirmed")
        self._collect_answers(session, decided, confirmed)
        vector, sums = session.sum()
        reach("study.masking.opened")
        return MaskedSum(
            survivors=survivors.sites,
            vector=vector,
            sums=sums,
            headers={site: headers[site] for site in survivors.sites},
            shown={site: shown[site] for site in survivors.sites if shown[site]},
            missing=dict(sorted(missing.items())),
            void=decided.void,
        )

    # --- the steps ---

    def _collect_setups(self, session: ServerSession, number: int, attempt: int, missing: dict[str, str]) -> None:
        held = self._setups.pop((number, attempt), {})
        self._setups = {turn: setups for turn, setups in self._setups.items() if turn > (number, attempt)}
        for site, setup in held.items():
            with _concerning(site, missing):
                session.add_setup(setup)
        header = SetupTask(
            plan_digest=self._digest,
            round=number,
            attempt=attempt,
            study_keys=tuple(key.to_bytes().hex() for key in self._keys.values()),
            signing_keys=self._signers if self._simulated else {},
        )
        rest = [site for site in self._keys if site not in held]
        for site, answer in self._ask([(site, Message(header=header)) for site in rest], self._deadline()):
            with _concerning(site, missing):
                session.add_setup(self._read(Setup, SetUp, site, answer))

    def _collect_masked(
        self,
        session: ServerSession,
        job: Job,
        attempt: int,
        announcement: Announcement,
        missing: dict[str, str],
    ) -> tuple[dict[str, MaskedHeader], dict[str, Mapping[str, Counts]]]:
        header, statement = job.task(attempt, self._first), announcement.to_bytes()
        vector = job.parameters if header.carries_vector else None
        tasks = by_basis(Message(header=header, vector=vector, statement=statement), job.basis)
        headers: dict[str, MaskedHeader] = {}
        shown: dict[str, Mapping[str, Counts]] = {}
        requests = [(site, tasks(site)) for site in announcement.sites]
        for site, answer in self._ask(requests, self._deadline()):
            with _concerning(site, missing):
                headers[site], shown[site] = self._take_masked(session, job, site, answer)
            self._said(site, missing.get(site, ""))
            del answer  # a model's size, and the next one comes
        return headers, shown

    def _take_masked(
        self, session: ServerSession, job: Job, site: str, answer: Reply
    ) -> tuple[MaskedHeader, Mapping[str, Counts]]:
        message = answer.message
        header = message.header if message is not None else None
        if message is None or not isinstance(header, MaskedHeader) or message.sums is None:
            raise UpdateRefused(problem_of(answer), site=site)
        if header.site != site or header.plan_digest != self._digest:
            raise UpdateRefused("It sent an update in another site's name, or of another plan.", site=site)
        size = MaskedInput.size(self.terms)
        masked = MaskedInput.from_bytes(message.statement[:size], self.terms)
        if masked.site != site:
            raise UpdateRefused("It sent another site's masked input.", site=site)
        vector = message.masked if message.masked is not None else np.zeros(0, self.terms.dtype)
        session.add_masked(masked, vector, message.sums)
        if following := message.statement[size:]:
            self._keep_following(site, Setup.from_bytes(following, self.terms), job.number)
        return header, message.counts if job.is_declared(site, message.counts) else {}

    def _keep_following(self, site: str, setup: Setup, number: int) -> None:
        """Keep the setup for the next round that came along; what else is wrong with it is found when it is added."""
        if setup.site == site and (setup.turn.round, setup.turn.attempt) == (number + 1, self._first):
            self._setups.setdefault((number + 1, self._first), {})[site] = setup

    def _collect_confirmations(self, session: ServerSession, decided: Decided, survivors: Survivors) -> tuple[str, ...]:
        """Return who signed the set; once enough have, the others get a moment more, in case that one drops out."""
        header = ConfirmTask(plan_digest=self._digest, round=decided.round, attempt=decided.attempt)
        task = Message(header=header, statement=survivors.to_bytes())
        missing: dict[str, str] = {}
        deadline = self._deadline()
        signed: list[str] = []
        for site, answer in self._ask([(site, task) for site in survivors.sites], deadline):
            with _concerning(site, missing):
                session.add_confirmation(self._read(Confirmation, Confirmed, site, answer))
                signed.append(site)
            if len(signed) >= self.terms.threshold:
                deadline.shorten(_GRACE)
        self._tell(missing)
        return tuple(signed)

    def _collect_answers(self, session: ServerSession, decided: Decided, confirmed: tuple[str, ...]) -> None:
        header = UnmaskTask(
            plan_digest=self._digest,
            round=decided.round,
            attempt=decided.attempt,
            confirmations=tuple(one.to_bytes().hex() for one in session.confirmations()),
        )
        missing: dict[str, str] = {}
        answered = 0
        for site, answer in self._ask([(site, Message(header=header)) for site in confirmed], self._deadline()):
            with _concerning(site, missing):
                session.add_answer(self._read(Answer, Unmasked, site, answer))
                answered += 1
            if answered >= self.terms.threshold:
                break
        self._tell(missing)

    # --- all steps ---

    def _deadline(self) -> Deadline:
        return Deadline(self._plan.rounds.deadline_seconds)

    def _read(
        self, kind: type[_Parsed], header: type[SetUp | Confirmed | Unmasked], site: str, answer: Reply
    ) -> _Parsed:
        """Return the statement that a site was asked for.

        Raises:
            UpdateRefused: It sent none, or one in another site's name.
            MessageError: Its bytes are none.
        """
        message = answer.message
        if message is None or not isinstance(message.header, header):
            raise UpdateRefused(problem_of(answer), site=site)
        statement: _Parsed = kind.from_bytes(message.statement, self.terms)
        if message.header.site != site or statement.site != site:
            raise UpdateRefused("It answered in another site's name.", site=site)
        return statement

    @staticmethod
    def _tell(missing: Mapping[str, str]) -> None:
        for site, problem in sorted(missing.items()):
            _log.info("%s took no part in opening the sum: %s", site, problem)

    # --- what was decided ---

    def _restore(
        self, session: ServerSession, decided: Decided, model: bytes
    ) -> tuple[Announcement | None, Survivors | None]:
        if not decided.announcement:
            return None, None
        announcement = Announcement.from_bytes(bytes.fromhex(decided.announcement), self.terms)
        survivors = None
        if decided.survivors:
            survivors = Survivors.from_bytes(bytes.fromhex(decided.survivors), self.terms)
        session.resume(announcement=announcement, model_digest=model, survivors=survivors)
        return announcement, survivors

    def _load(self, number: int) -> Decided:
        """Return what was decided about this round in this run before the process was killed, or a fresh start."""
        path = self._folder.path / _FILE
        fresh = Decided(round=number, attempt=self._first)
        if not path.exists():
            return fresh
        try:
            decided = Decided.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{path} cannot be read back.", advice="Resume the study: a new attempt needs nothing of it."
            ) from error
        return decided if decided.round == number and decided.attempt >= self._first else fresh

    def _save(self, decided: Decided) -> None:
        self._folder.write(_FILE, decided.model_dump_json())


@contextlib.contextmanager
def _concerning(site: str, missing: dict[str, str]) -> Iterator[None]:
    """Note what is wrong with something that a site sent: it concerns this site only."""
    try:
        yield
    except (UpdateRefused, MessageError) as error:
        missing[site] = error.message
