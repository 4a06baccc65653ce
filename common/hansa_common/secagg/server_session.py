"""The server's half of secure aggregation for one round and attempt: a state machine without I/O.

It holds one sum however many sites there are. ``announce`` and ``survivors`` are decisions: store their values before
they are sent, and give them to ``resume`` after a restart, so that no site is ever told a second story.
"""

import hmac
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_common.errors import RoundVoid, SiteBlamed, UpdateRefused
from hansa_common.secagg.agreement import (
    Directory,
    commit_seed,
    exchange,
    is_committed,
    is_signed,
    keys_digest,
    pair_keys,
    public_bytes,
    self_keys,
)
from hansa_common.secagg.masking import MaskKeys, Words, apply_masks
from hansa_common.secagg.messages import (
    HASH_BYTES,
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    Setup,
    Signed,
    StudyKey,
    Survivors,
)
from hansa_common.secagg.sharing import combine, weights
from hansa_common.secagg.terms import Terms, Turn

Phase = Literal["setup", "masked-input", "confirmation", "unmask"]
Sum = tuple[Words, npt.NDArray[np.uint64]]


class ServerSession:
    """One attempt at one round.

    Args:
        terms: The plan's terms.
        round_number: The round.
        attempt: From 1; a void round is tried again as another attempt.
        size: ``d``, words of a masked vector.
        counts: ``c``, 64-bit words of counts.
        keys: The sites' study keys that the server gave out for this round's setups.
        directory: The enrolled sites; with it the server refuses a bad signature before the sites do.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        round_number: int,
        attempt: int,
        size: int,
        counts: int,
        keys: Sequence[StudyKey],
        directory: Directory | None = None,
    ) -> None:
        self._terms, self._directory = terms, directory
        self._turn = Turn(plan_digest=terms.plan_digest, round=round_number, attempt=attempt)
        self._keys_digest = keys_digest(terms, {key.site: key.key for key in keys})
        self._study_keys = {key.site: key.key for key in keys}
        self._probe = X25519PrivateKey.generate()
        self._setups: dict[str, Setup] = {}
        self._announcement: Announcement | None = None
        self._digest = b""
        self._model = b""
        self._survivors: Survivors | None = None
        self._uploaded: set[str] = set()
        self._vector = np.zeros(size, dtype=terms.dtype)
        self._counts = np.zeros(counts, dtype="<u8")
        self._confirmations: dict[str, Confirmation] = {}
        self._answers: dict[str, Answer] = {}
        self._opened = False

    def __repr__(self) -> str:
        return f"ServerSession({self._turn}, plan={self._terms.plan_digest[:16]!r})"

    # -- 1. Setup ------------------------------------------------------------------------------------------------------

    def add_setup(self, setup: Setup) -> None:
        """Take a setup; the same one again changes nothing. Its ``site`` must be the one that sent it.

        Raises:
            UpdateRefused: It is another than before, or the other sites would refuse it.
            RuntimeError: The round is announced.
        """
        site = setup.site
        if self._announcement is not None:
            raise RuntimeError("The round is announced; a setup that comes now is for another attempt.")
        _require(setup.turn == self._turn, site, "its setup is of another turn")
        terms, held = self._terms, self._setups.get(site)
        _require(held in {None, setup}, site, "it sent another setup before")
        _require(setup.threshold == terms.threshold, site, "its setup has another threshold")
        _require(setup.keys_digest == self._keys_digest, site, "its setup is for other study keys")
        _require(setup.study_key == self._study_keys.get(site), site, "its setup is of another study key of its own")
        twins = [other.site for other in self._setups.values() if other.public == setup.public and other.site != site]
        _require(not twins, site, f"its key is also that of {', '.join(twins)}")
        _require(exchange(self._probe, setup.public) is not None, site, "its key is of low order")
        self._require_signed(site, setup)
        self._setups[site] = setup

    def announce(self, model_digest: bytes) -> Announcement:
        """Return ``R_r``; the same one whenever it is asked for.

        Args:
            model_digest: SHA-256 of the model that the sites train from, 32 bytes.

        Raises:
            RoundVoid: Too few setups came.
        """
        if self._announcement is None:
            self._require_enough(self._setups, self._terms.required, "setup")
            setups = tuple(self._setups[site] for site in self._terms.sites if site in self._setups)
            self._set_announcement(Announcement(terms=self._terms, turn=self._turn, setups=setups), model_digest)
        assert self._announcement is not None
        return self._announcement

    def resume(self, *, announcement: Announcement, model_digest: bytes, survivors: Survivors | None = None) -> None:
        """Take back what was decided before a restart; masked inputs, confirmations and answers are added again.

        Raises:
            RuntimeError: This session has decided something already, or the values are not of its turn.
        """
        if self._announcement is not None or announcement.turn != self._turn:
            raise RuntimeError("A session resumes once, in its own turn, before it decides anything.")
        self._set_announcement(announcement, model_digest)
        if survivors is not None:
            if (survivors.turn, survivors.announcement) != (self._turn, self._digest):
                raise RuntimeError("The set of survivors belongs to another announcement.")
            self._survivors = survivors

    def _set_announcement(self, announcement: Announcement, model_digest: bytes) -> None:
        if len(model_digest) != HASH_BYTES:
            raise ValueError("A model's digest is 32 bytes.")
        self._announcement, self._model, self._digest = announcement, model_digest, announcement.digest()
        self._setups = {setup.site: setup for setup in announcement.setups}

    # -- 2. Masked input -----------------------------------------------------------------------------------------------

    def add_masked(self, masked: MaskedInput, vector: Words, counts: npt.NDArray[np.uint64]) -> None:
        """Add a site's masked words to the sum.

        Args:
            masked: What they belong to; its ``site`` must be the one that sent it.
            vector: ``[d]``, not changed.
            counts: ``[c]``, not changed.

        Raises:
            UpdateRefused: It is not of this turn, announcement or model, too late, there already, or of another size.
            RuntimeError: Nothing is announced.
        """
        site = masked.site
        if self._announcement is None:
            raise RuntimeError("Nothing is announced.")
        _require(masked.turn == self._turn and masked.announcement == self._digest, site, "it is of another round")
        _require(masked.model == self._model, site, "it is made from another model")
        _require(site in self._setups, site, "it does not take part in this round")
        _require(site not in self._uploaded, site, "its masked input is there already")
        _require(self._survivors is None or site in self._survivors.sites, site, "it came after the sum was closed")
        for words, total in ((vector, self._vector), (counts, self._counts)):
            _require(words.dtype == total.dtype and words.shape == total.shape, site, "it has another size or type")
        np.add(self._vector, vector, out=self._vector)
        np.add(self._counts, counts, out=self._counts)
        self._uploaded.add(site)

    # -- 3. Consistency ------------------------------------------------------------------------------------------------

    def survivors(self) -> Survivors:
        """Close the sum and return ``U``; the same set whenever it is asked for.

        Raises:
            RoundVoid: Too few masked inputs came.
        """
        if self._survivors is None:
            self._require_enough(self._uploaded, self._terms.required, "masked-input")
            sites = tuple(site for site in self._terms.sites if site in self._uploaded)
            self._survivors = Survivors(terms=self._terms, turn=self._turn, announcement=self._digest, sites=sites)
        return self._survivors

    def add_confirmation(self, confirmation: Confirmation) -> None:
        """Take a survivor's signature of ``U``; the same one again changes nothing.

        Raises:
            UpdateRefused: It is not a survivor's, not of this set, or the signature does not hold.
            RuntimeError: No set is decided.
        """
        site, survivors = confirmation.site, self._require_survivors()
        _require(site in survivors.sites, site, "it is no survivor")
        decided = (self._turn, self._digest, self._model, survivors.sites)
        _require(confirmation.subject() == decided, site, "it signed another round, model or set of survivors")
        self._require_signed(site, confirmation)
        self._confirmations[site] = confirmation

    def confirmations(self) -> tuple[Confirmation, ...]:
        """Return the signatures of ``t`` survivors.

        Raises:
            RoundVoid: There are fewer.
        """
        self._require_enough(self._confirmations, self._terms.threshold, "confirmation")
        found = [self._confirmations[site] for site in self._terms.sites if site in self._confirmations]
        return tuple(found[: self._terms.threshold])

    # -- 4. Unmask -----------------------------------------------------------------------------------------------------

    def add_answer(self, answer: Answer) -> None:
        """Take a survivor's shares; the same ones again change nothing.

        Raises:
            UpdateRefused: It is not a survivor's, not of this set, or the signature does not hold.
            SiteBlamed: A share is not the one that its dealer committed to: the answerer changed it.
            RuntimeError: No set is decided.
        """
        site, survivors = answer.site, self._require_survivors()
        _require(site in survivors.sites, site, "it is no survivor")
        subject = (answer.turn, answer.announcement, answer.survivors)
        _require(subject == (self._turn, self._digest, survivors.sites), site, "it answers another question")
        self._require_signed(site, answer)
        for dealer, setup in self._setups.items():
            share = answer.share(self._terms.index(dealer))
            held = {"seed": share} if dealer in survivors.sites else {"key": share}
            if not is_committed(setup, site, **held):
                raise SiteBlamed(
                    f"'{site}' sent another share of '{dealer}' than it was dealt.",
                    site=site,
                    role="answerer",
                    advice="Its signed answer and the signed setup prove it; other sites' shares may still do.",
                )
        self._answers[site] = answer

    # -- 5. Sum --------------------------------------------------------------------------------------------------------

    def sum(self, *, threads: int = 1) -> Sum:
        """Return the sum of the survivors' encoded updates and counts, modulo the words' ranges.

        Args:
            threads: How many cores to take the masks off with.

        Raises:
            RoundVoid: Fewer than ``t`` answers, or not all survivors' masked inputs were added again after a restart.
            SiteBlamed: Shares that match their commitments are of another secret: the dealer dealt wrong ones.
        """
        survivors = self._require_survivors()
        if self._opened:
            return self._vector, self._counts
        self._require_enough(self._answers, self._terms.threshold, "unmask")
        if missing := [site for site in survivors.sites if site not in self._uploaded]:
            raise RuntimeError(f"Masked inputs were not added again after a restart: {', '.join(missing)}.")
        add, subtract = self._masks(survivors)
        self._opened = True
        apply_masks(self._vector, self._counts, add=add, subtract=subtract, threads=threads)
        return self._vector, self._counts

    def _masks(self, survivors: Survivors) -> tuple[list[MaskKeys], list[MaskKeys]]:
        """Return the masks to add and to subtract, all from secrets that match their commitments."""
        answerers = [site for site in self._terms.sites if site in self._answers][: self._terms.threshold]
        coefficients = weights([self._terms.index(site) + 1 for site in answerers])
        bound = {"announcement": self._digest, "model": self._model}
        add: list[MaskKeys] = []
        subtract: list[MaskKeys] = []
        for dealer, setup in self._setups.items():
            place = self._terms.index(dealer)
            try:
                secret = combine(coefficients, [self._answers[site].share(place) for site in answerers])
            except ValueError:
                secret = None
            if dealer in survivors.sites:
                if secret is None or not hmac.compare_digest(
                    commit_seed(self._turn, dealer, secret), setup.seed_commitment
                ):
                    raise _misdealt(dealer)
                subtract.append(self_keys(self._turn, dealer, seed=secret, **bound))
                continue
            key = None if secret is None else X25519PrivateKey.from_private_bytes(secret)
            if key is None or not hmac.compare_digest(public_bytes(key), setup.public):
                raise _misdealt(dealer)
            for survivor in survivors.sites:
                agreed = exchange(key, self._setups[survivor].public)
                if agreed is None:
                    raise RuntimeError(f"The announced key of '{survivor}' is of low order.")
                keys = pair_keys(self._turn, survivor, dealer, secret=agreed, **bound)
                (subtract if survivor < dealer else add).append(keys)
        return add, subtract

    # -- All steps -----------------------------------------------------------------------------------------------------

    def _require_survivors(self) -> Survivors:
        if self._survivors is None:
            raise RuntimeError("No set of survivors is decided.")
        return self._survivors

    def _require_signed(self, site: str, message: Signed) -> None:
        if self._directory is not None:
            _require(is_signed(message, self._directory), site, f"its {message.name} is not signed by an enrolled site")

    def _require_enough(self, present: Collection[str], needed: int, phase: Phase) -> None:
        if len(present) >= needed:
            return
        expected = {
            "setup": self._terms.sites,
            "masked-input": tuple(self._setups),
            "confirmation": self._survivors.sites if self._survivors else (),
            "unmask": self._survivors.sites if self._survivors else (),
        }[phase]
        missing = tuple(site for site in expected if site not in present)
        raise RoundVoid(
            f"{self._turn} is void: {len(present)} sites reached '{phase}', {needed} are needed; "
            f"missing: {', '.join(missing)}.",
            phase=phase,
            missing=missing,
            opened=phase in {"confirmation", "unmask"},
            advice="It is tried again as another attempt, with new setups.",
        )


def _require(condition: bool, site: str, reason: str) -> None:
    if not condition:
        raise UpdateRefused(f"'{site}' is refused: {reason}.", site=site)


def _misdealt(dealer: str) -> SiteBlamed:
    return SiteBlamed(
        f"The shares that '{dealer}' dealt are those of another secret than it said.",
        site=dealer,
        role="dealer",
        advice="The shares match the commitments that it signed; the study pauses until it is out or mended.",
    )
