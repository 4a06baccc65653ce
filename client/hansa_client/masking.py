"""One site's part in the secure aggregation of one study: the protocol's messages, and what must survive a restart.

The protocol itself, and every check that a site makes before anything of it leaves, is ``hansa_common.secagg``. Secrets
of a round are in this process's memory only; what was signed and used is on the disk before it is sent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.errors import MessageError
from hansa_common.messages import (
    Confirmed,
    ConfirmTask,
    EvaluateTask,
    ExplainTask,
    MaskingTask,
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
from hansa_common.protection import seen_digest
from hansa_common.secagg import (
    Announcement,
    Confirmation,
    SiteMemory,
    SiteSession,
    StudyKey,
    Survivors,
    Terms,
    Words,
)


class Keeper(Protocol):
    """Keeps what must survive a restart of the site; each call is durable when it returns."""

    def memory(self) -> SiteMemory:
        """Return what was kept last."""

    def keep(self, memory: SiteMemory) -> None:
        """Keep what was signed and used."""

    def announcement(self) -> bytes:
        """Return the last announcement; empty where there is none."""

    def keep_announcement(self, content: bytes) -> None:
        """Keep an announcement: a restarted site reads its shares from it."""


class Masking:
    """Masks what leaves one site in one study.

    Args:
        terms: The plan's.
        site: This site's name.
        signing: Its signing key.
        study_key: Its key for this study.
        enrolled: Returns the signing keys of the plan's sites, from this site's own roster as it is now.
        keeper: What must survive a restart.
        minimum: Fewest sites whose sum this site lets be opened.
        head: Returns the head of this site's record, 32 bytes: it is signed along with each set of survivors.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        site: str,
        signing: Ed25519PrivateKey,
        study_key: X25519PrivateKey,
        enrolled: Callable[[], Mapping[str, str]],
        keeper: Keeper,
        minimum: int = 0,
        head: Callable[[], bytes] = lambda: bytes(32),
    ) -> None:
        self.session = SiteSession(
            terms=terms,
            site=site,
            signing=signing,
            study_key=study_key,
            directory=enrolled(),
            memory=keeper.memory(),
            save=keeper.keep,
            minimum=minimum,
        )
        self.terms, self._site = terms, site
        self._enrolled, self._keeper, self._head = enrolled, keeper, head
        self._keys: tuple[StudyKey, ...] = ()

    def introduce(self, header: Opened) -> Opened:
        """Return the answer to the opening exchange with this site's key for the study in it."""
        return header.model_copy(update={"study_key": self.session.study_key_statement().to_bytes().hex()})

    def answer(self, task: Message) -> Message:
        """Do a step of the protocol that needs neither data nor model.

        Raises:
            MaskingRefused: The protocol forbids it; the error says which rule.
            MessageError: The task does not hold what its header says.
            StorageError: What must be durable first could not be written.
        """
        header = task.header
        assert isinstance(header, MaskingTask)
        self.session.enrol(self._enrolled())
        digest, number, attempt = header.plan_digest, header.round, header.attempt
        match header:
            case SetupTask():
                self.restore_keys(header.study_keys)
                setup = self.session.setup(number, attempt, self._keys)
                done = SetUp(plan_digest=digest, round=number, attempt=attempt, site=self._site)
                return Message(header=done, statement=setup.to_bytes())
            case ConfirmTask():
                survivors = Survivors.from_bytes(task.statement, self.terms)
                self._require_turn(header, survivors)
                confirmation = self.session.confirm(survivors, head=self._head())
                signed = Confirmed(plan_digest=digest, round=number, attempt=attempt, site=self._site)
                return Message(header=signed, statement=confirmation.to_bytes())
            case UnmaskTask():
                shown = [Confirmation.from_bytes(bytes.fromhex(one), self.terms) for one in header.confirmations]
                self._require_turn(header, shown[0])
                answer = self.session.unmask(shown, announcement=self._announcement())
                opened = Unmasked(plan_digest=digest, round=number, attempt=attempt, site=self._site)
                return Message(header=opened, statement=answer.to_bytes())

    def cover(self, task: Message, vector: Words, sums: Sums) -> bytes:
        """Mask an encoded update and counts in place; return the statement that goes with them.

        The statement is what the words belong to and, where the task asks for it, the setup for the next round.

        Args:
            task: Whose model the update was made from, and which carries the announcement.
            vector: ``uint16`` or ``uint32 [P]``; empty where only counts leave.
            sums: ``uint64``.

        Raises:
            MaskingRefused: The protocol forbids it; nothing was masked.
            MessageError: The task's announcement is none, or of another round.
            StorageError: What must be durable first could not be written.
        """
        header = task.header
        assert isinstance(header, TrainTask | EvaluateTask | ExplainTask | StatisticsTask)
        self.session.enrol(self._enrolled())
        announcement = Announcement.from_bytes(task.statement, self.terms)
        self._require_turn(header, announcement)
        self._keeper.keep_announcement(task.statement)
        seen = seen_digest(header, task.vector)  # masks cancel only between sites that saw the same
        masked = self.session.mask(announcement, seen, vector, sums)
        statement = masked.to_bytes()
        if isinstance(header, TrainTask) and header.next_attempt and self._keys:
            statement += self.session.setup(header.round + 1, header.next_attempt, self._keys).to_bytes()
        return statement

    def restore_keys(self, study_keys: Sequence[str]) -> None:
        """Take the sites' study keys, each checked when a setup is dealt for them.

        Raises:
            MessageError: One is no study key of this plan.
        """
        self._keys = tuple(StudyKey.from_bytes(bytes.fromhex(key), self.terms) for key in study_keys)

    def _announcement(self) -> Announcement | None:
        content = self._keeper.announcement()
        return Announcement.from_bytes(content, self.terms) if content else None

    @staticmethod
    def _require_turn(
        header: MaskingTask | TrainTask | EvaluateTask | ExplainTask | StatisticsTask,
        statement: Announcement | Survivors | Confirmation,
    ) -> None:
        """Hold a statement to the task that carries it: the site's record names rounds by tasks."""
        turn = statement.turn
        if (turn.round, turn.attempt) != (header.round, header.attempt):
            raise MessageError(f"The task is for round {header.round}, and what it carries for {turn}.")
