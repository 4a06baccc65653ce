"""The site's half of secure aggregation: a state machine without I/O.

Bonawitz et al.: Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017, section 4 and figure 4,
the variant for an active server, with keys from enrolment and setups dealt out one round ahead.

The rules that keep one update hidden, in the order in which they are checked:

* A setup is dealt once for a round and attempt, for keys that the site's own roster vouches for, and used once. Its
  secrets are in memory only; "used" is durable before the vector is touched.
* One announcement a turn. All its setups are signed, for the same keys, and their shares for this site are opened and
  compared with the commitments before the site masks.
* One set of survivors a turn, within the announcement, large enough, signed by t sites before any share leaves.
* Of each site a share of its seed or of its key, never both. A repeated request gets the bytes that were sent before.
* Nothing for a round older than the newest one masked in.
* Whoever sees a signature of his own that he does not remember was restored from a backup, and stops.

Whatever makes a step durable is called before the step's result exists; a call that fails there can be repeated.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.errors import (
    KeyRefused,
    MessageError,
    NotConfirmed,
    OutOfTurn,
    RolledBack,
    RoundReplayed,
    SecondStory,
    SetRefused,
    SetupLost,
    SetupRefused,
    TooFewSites,
)
from hansa_common.secagg.agreement import (
    Directory,
    Shares,
    check_confirmations,
    check_keys,
    is_signed,
    pair_keys,
    public_bytes,
    self_keys,
    signed,
)
from hansa_common.secagg.dealing import (
    Accepted,
    Secrets,
    deal,
    open_announcement,
    open_setup,
    unsafe_pack,
    unsafe_unpack,
)
from hansa_common.secagg.masking import Words, apply_masks, require_words
from hansa_common.secagg.memory import SiteMemory, Used
from hansa_common.secagg.messages import (
    HASH_BYTES,
    NO_SIGNATURE,
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    Message,
    Setup,
    StudyKey,
    Survivors,
)
from hansa_common.secagg.sharing import SHARE_BYTES, Rand
from hansa_common.secagg.terms import Terms, Turn
from hansa_common.signing import public_hex

_NO_HEAD = bytes(HASH_BYTES)


class SiteSession:
    """One site in one study.

    Args:
        terms: The plan's terms.
        site: This site's name.
        signing: Its signing key.
        study_key: Its X25519 key for this study; a new one, and only that, ends a stop after a restored backup.
        directory: The sites that are enrolled, from this site's own roster.
        memory: What ``save`` was given last, or ``SiteMemory()``.
        save: Makes a value durable before it returns.
        minimum: The site's own policy: the smallest set of survivors that it signs, if more than the plan's.
        rand: Source of random bytes; another than the operating system's only for test vectors.

    Raises:
        KeyRefused: The roster has another signing key for this site.
        MessageError: The site is not one of the plan's.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        site: str,
        signing: Ed25519PrivateKey,
        study_key: X25519PrivateKey,
        directory: Directory,
        memory: SiteMemory,
        save: Callable[[SiteMemory], None],
        minimum: int = 0,
        rand: Rand = os.urandom,
    ) -> None:
        terms.index(site)
        if directory.get(site) != public_hex(signing):
            raise KeyRefused(f"The roster has another signing key for '{site}' than this site.", site=site)
        self._terms, self._site, self._directory = terms, site, dict(directory)
        self._signing, self._study_key, self._rand = signing, study_key, rand
        self._required = max(terms.required, minimum)
        self._save = save
        self._secrets: dict[Turn, Secrets] = {}
        self._accepted: Accepted | None = None
        self._shares: dict[str, Shares] = {}
        own = public_bytes(study_key).hex()
        if memory.study_key != own:  # what was sealed for another key cannot be opened, so it is over
            memory = SiteMemory(study_key=own, floor=memory.floor)
        self.memory = memory
        """What is durable, or was when this session began."""

    def __repr__(self) -> str:
        return f"SiteSession(site={self._site!r}, plan={self._terms.plan_digest[:16]!r})"

    @property
    def opened(self) -> Turn | None:
        """The newest turn if a set of survivors was signed in it: it counts as opened, whatever the server says."""
        used = self.memory.used
        return None if used is None or used.survivors is None else self._turn(used.round, used.attempt)

    def enrol(self, directory: Directory) -> None:
        """Take the roster as it is now: whoever was taken out of it is not believed any more."""
        self._directory = dict(directory)

    # -- 0. Identity ---------------------------------------------------------------------------------------------------

    def study_key_statement(self) -> StudyKey:
        """Return this site's word that the study key is its own."""
        turn, key = self._turn(0, 1), public_bytes(self._study_key)
        unsigned = StudyKey(terms=self._terms, turn=turn, site=self._site, key=key, signature=NO_SIGNATURE)
        return signed(unsigned, self._signing)

    # -- 1. Setup ------------------------------------------------------------------------------------------------------

    def setup(self, round_number: int, attempt: int, keys: Sequence[StudyKey]) -> Setup:
        """Deal out the secrets of a turn; the same value again while they are held.

        Args:
            round_number: The round; may be ahead of the one under way.
            attempt: From 1.
            keys: The study keys of the sites that take part.

        Raises:
            RoundReplayed: The turn is over.
            SetupLost: The turn's setup was dealt out before a restart.
            KeyRefused: A study key is not that of the site it names.
            TooFewSites: Fewer sites have a key than a sum needs.
            RolledBack: This site stopped.
        """
        self._require_running()
        turn = self._turn(round_number, attempt)
        if (held := self._secrets.get(turn)) is not None:
            return held.setup
        if self.memory.is_over(turn):
            raise RoundReplayed(f"A setup was asked for {turn}, which is over.")
        if self.memory.find(turn) is not None:
            raise _lost(turn)
        study_keys = self._check_keys(keys)
        secrets = deal(self._terms, turn, self._site, study_keys=study_keys, signing=self._signing, rand=self._rand)
        self._keep(self.memory.issuing(turn, secrets.setup.digest()))
        self._secrets[turn] = secrets
        return secrets.setup

    def _check_keys(self, keys: Sequence[StudyKey]) -> dict[str, bytes]:
        study_keys = check_keys(keys, self._terms, self._directory)
        if study_keys.get(self._site) != public_bytes(self._study_key):
            raise KeyRefused(f"Another study key is given out for '{self._site}' than its own.", site=self._site)
        return study_keys

    # -- 2. Masked input -----------------------------------------------------------------------------------------------

    def accept(self, announcement: Announcement) -> None:
        """Check an announcement, open this site's boxes and compare the shares; nothing leaves.

        ``mask`` does it too; a site that trains first may ask here whether it is worth it.

        Raises:
            RoundReplayed: The turn is over, or this site masked in it.
            SecondStory: Another announcement was seen for this turn.
            SetRefused: This site does not take part.
            SetupLost: The secrets of this site's setup are gone.
            SetupRefused: A setup breaks the protocol; ``site`` says whose.
            TooFewSites: It has fewer sites than a sum needs.
            RolledBack: It holds a setup of this site that the site does not remember.
        """
        self._require_running()
        self._require_plan(announcement)
        turn, digest = announcement.turn, announcement.digest()
        self._require_own(announcement)
        if self._accepted is not None and (self._accepted.turn, self._accepted.digest) == (turn, digest):
            return
        issued = self.memory.find(turn)
        if issued is None:
            raise RoundReplayed(f"{turn} is over for this site.")
        if issued.announcement not in {None, digest.hex()}:
            raise SecondStory(
                f"The server announces {turn} a second time, with other setups.",
                advice="Ask the other sites what they were sent; the server may be trying to cancel masks.",
            )
        if issued.announcement is None:
            self._keep(self.memory.seeing(turn, digest))
        secrets = self._secrets.get(turn)
        if secrets is None:
            raise _lost(turn)
        self._require_size(announcement.sites, "announced")
        self._accepted = open_announcement(
            announcement, self._site, secrets=secrets, study_key=self._study_key, directory=self._directory
        )

    def mask(
        self, announcement: Announcement, model_digest: bytes, vector: Words, counts: npt.NDArray[np.uint64]
    ) -> MaskedInput:
        """Mask an encoded update in place; its setup is used up, whatever happens afterwards.

        Store the masked words before their first byte leaves, and send only those.

        Args:
            announcement: ``R_r``.
            model_digest: SHA-256 of the model that the update was made from, 32 bytes.
            vector: The encoded update, ``uint16`` or ``uint32 [d]`` as the plan's ring.
            counts: ``uint64 [c]``; may be empty.

        Raises:
            MaskingRefused: As ``accept``; the arrays are untouched.
            ValueError: An array is not of its type; it is untouched.
        """
        require_words(vector, self._terms.dtype)
        require_words(counts, np.dtype("<u8"))
        if len(model_digest) != HASH_BYTES:
            raise ValueError("A model's digest is 32 bytes.")
        self.accept(announcement)
        accepted, turn = self._accepted, announcement.turn
        assert accepted is not None
        members = self._terms.pack(announcement.sites)
        self._keep(self.memory.using(turn, announcement=accepted.digest, members=members, model=model_digest))
        secrets = self._secrets.pop(turn)
        self._accepted, self._shares = None, accepted.shares
        self._secrets = {each: held for each, held in self._secrets.items() if not self.memory.is_over(each)}
        bound = {"announcement": accepted.digest, "model": model_digest}
        own = self_keys(turn, self._site, seed=secrets.seed, **bound)
        pairs = {
            other: pair_keys(turn, self._site, other, secret=secret, **bound)
            for other, secret in accepted.agreed.items()
        }
        add = [own, *(keys for other, keys in pairs.items() if self._site < other)]
        subtract = [keys for other, keys in pairs.items() if self._site > other]
        apply_masks(vector, counts, add=add, subtract=subtract)
        return MaskedInput(
            terms=self._terms, turn=turn, site=self._site, announcement=accepted.digest, model=model_digest
        )

    def _require_own(self, announcement: Announcement) -> None:
        """Compare the announced setup of this site with what it remembers."""
        turn = announcement.turn
        own = next((setup for setup in announcement.setups if setup.site == self._site), None)
        if own is None:
            raise SetRefused(f"{turn} is announced without this site.")
        if not is_signed(own, self._directory):
            raise SetupRefused("The setup that is given out for this site is not signed by it.", site=self._site)
        if own.study_key != public_bytes(self._study_key):
            raise RoundReplayed(f"{turn} was set up with an earlier study key of this site.")
        if self.memory.is_over(turn):
            raise RoundReplayed(f"{turn} is over for this site: each setup is used once.")
        issued = self.memory.find(turn)
        if issued is None or issued.setup != own.digest().hex():
            raise self._stop(f"a setup for {turn}")

    # -- 3. Consistency ------------------------------------------------------------------------------------------------

    def confirm(self, survivors: Survivors, *, head: bytes = _NO_HEAD) -> Confirmation:
        """Sign the set of survivors; the same bytes again for the same set.

        Args:
            survivors: ``U``.
            head: Head of this site's log, 32 bytes.

        Raises:
            RoundReplayed: A newer round has begun.
            OutOfTurn: This site did not mask in this turn.
            SecondStory: It is of another announcement, or another set was signed.
            SetRefused: It is not within the announcement, or without this site.
            TooFewSites: It has fewer sites than a sum needs.
        """
        self._require_plan(survivors)
        used = self._require_used(survivors.turn)
        bitmap = self._terms.pack(survivors.sites)
        if survivors.announcement.hex() != used.announcement:
            raise SecondStory("The set of survivors belongs to another announcement than this site saw.")
        if used.confirmation is not None:
            if bitmap.hex() != used.survivors:
                raise SecondStory(
                    "The server sends a second set of survivors.",
                    advice="With both sets opened it could tell one site's update; ask the other sites what they saw.",
                )
            return Confirmation.from_bytes(bytes.fromhex(used.confirmation), self._terms)
        if not set(survivors.sites) <= set(self._terms.unpack(bytes.fromhex(used.members))):
            raise SetRefused("The set of survivors names a site that was not announced.")
        if self._site not in survivors.sites:
            raise SetRefused("The set of survivors leaves this site out.")
        self._require_size(survivors.sites, "left")
        unsigned = Confirmation(
            terms=self._terms,
            turn=survivors.turn,
            site=self._site,
            announcement=survivors.announcement,
            model=bytes.fromhex(used.model),
            survivors=survivors.sites,
            head=head,
            study_key=public_bytes(self._study_key),
            signature=NO_SIGNATURE,
        )
        confirmation = signed(unsigned, self._signing)
        self._keep(self.memory.saying(survivors=bitmap, confirmation=confirmation.to_bytes()))
        return confirmation

    # -- 4. Unmask -----------------------------------------------------------------------------------------------------

    def unmask(self, confirmations: Sequence[Confirmation], *, announcement: Announcement | None = None) -> Answer:
        """Return this site's shares once enough sites signed the same set; the same bytes again.

        Args:
            confirmations: Of at least ``t`` distinct survivors.
            announcement: ``R_r`` again, from which a session that was restarted since reads its shares.

        Raises:
            OutOfTurn: This site has signed no set in this turn.
            RoundReplayed: A newer round has begun.
            NotConfirmed: Too few signatures, or one that does not hold or is of another set; ``site`` says whose.
            RolledBack: One is this site's own, of something that it does not remember.
            SetupLost: The session was restarted and no announcement is given.
            SecondStory: Another announcement is given than the one this site saw.
        """
        self._require_running()
        self._require_remembered(confirmations)
        if not confirmations:
            raise NotConfirmed("No signature of the set of survivors is shown.")
        used = self._require_used(confirmations[0].turn)
        if used.survivors is None or used.confirmation is None:
            raise OutOfTurn("Shares were asked for before the set of survivors was signed.")
        own = Confirmation.from_bytes(bytes.fromhex(used.confirmation), self._terms)
        check_confirmations(own, confirmations, self._directory)
        if used.answer is not None:
            return Answer.from_bytes(bytes.fromhex(used.answer), self._terms)
        shares = self._shares or self._reopen(used, announcement)
        content = [bytes(SHARE_BYTES)] * self._terms.n
        for dealer, both in shares.items():
            content[self._terms.index(dealer)] = both.seed if dealer in own.survivors else both.key
        unsigned = Answer(
            terms=self._terms,
            turn=own.turn,
            site=self._site,
            announcement=own.announcement,
            survivors=own.survivors,
            shares=b"".join(content),
            signature=NO_SIGNATURE,
        )
        answer = signed(unsigned, self._signing)
        self._keep(self.memory.saying(answer=answer.to_bytes()))
        self._shares = {}
        return answer

    def _require_remembered(self, confirmations: Sequence[Confirmation]) -> None:
        """Stop at a set that this site signed and does not remember."""
        used = self.memory.used
        own = public_bytes(self._study_key)
        for one in confirmations:
            self._require_plan(one)
            newer = self.memory.floor is None or (one.turn.round, one.turn.attempt) >= self.memory.floor
            known = used is not None and used.confirmation == one.to_bytes().hex()
            if one.site != self._site or one.study_key != own or known or not newer:
                continue
            if is_signed(one, self._directory):
                raise self._stop(f"a set of survivors for {one.turn}")

    def _reopen(self, used: Used, announcement: Announcement | None) -> dict[str, Shares]:
        """Open the boxes again, of the very announcement that was seen."""
        if announcement is None:
            raise SetupLost("This session was restarted: it needs the announcement again to open its boxes.")
        if announcement.digest().hex() != used.announcement:
            raise SecondStory("Another announcement is given than the one that this site masked in.")
        return {setup.site: open_setup(setup, self._site, self._study_key) for setup in announcement.setups}

    # -- Simulation ----------------------------------------------------------------------------------------------------

    def unsafe_export_secrets(self) -> bytes:
        """Return what must never leave a real site's memory; for simulations that move a site between processes.

        Whoever has it and the masked input has the update, and a copy that is used twice is a two-time pad.
        """
        return unsafe_pack(list(self._secrets.values()), self._shares)

    def unsafe_restore_secrets(self, data: bytes) -> None:
        """Take over what another session of the same simulated site exported, and goes on with no more."""
        secrets, self._shares = unsafe_unpack(data, self._terms)
        self._secrets = {each.setup.turn: each for each in secrets}

    def _turn(self, round_number: int, attempt: int) -> Turn:
        return Turn(plan_digest=self._terms.plan_digest, round=round_number, attempt=attempt)

    def _require_plan(self, message: Message) -> None:
        if message.terms != self._terms:
            raise MessageError(f"The {message.name} is of another plan.")

    def _require_running(self) -> None:
        if self.memory.stopped:
            raise _rolled_back(self.memory.stopped)

    def _require_used(self, turn: Turn) -> Used:
        self._require_running()
        used = self.memory.used
        if used is not None and (used.round, used.attempt) == (turn.round, turn.attempt):
            return used
        if self.memory.is_over(turn):
            raise RoundReplayed(f"{turn} is over for this site.")
        raise OutOfTurn(f"This site did not mask in {turn}.")

    def _require_size(self, sites: tuple[str, ...], what: str) -> None:
        if len(sites) < self._required:
            raise TooFewSites(
                f"{len(sites)} of {self._terms.n} sites are {what}; this site goes on with {self._required} or more."
            )

    def _stop(self, what: str) -> RolledBack:
        found = f"This site signed {what} and does not remember it: its state was restored from an older copy"
        self._keep(self.memory.model_copy(update={"stopped": found}))
        self._secrets, self._accepted, self._shares = {}, None, {}
        return _rolled_back(found)

    def _keep(self, memory: SiteMemory) -> None:
        self._save(memory)
        self.memory = memory


def _lost(turn: Turn) -> SetupLost:
    return SetupLost(
        f"The secrets of this site's setup for {turn} are gone.",
        advice="They are kept in memory only; the site takes part again with the next setup.",
    )


def _rolled_back(found: str) -> RolledBack:
    return RolledBack(f"{found}.", advice="Have the organisation sign a new key for this study; then it goes on.")
