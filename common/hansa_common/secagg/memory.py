"""What a site must remember over a restart; it holds nothing that opens an update.

Secret keys and seeds are not in it: they live in the process only. ``answer`` holds shares, which the site sends to the
server anyway.

Evolution: fields are added as optional; ``format`` counts up when a meaning changes, and one that is not known is
refused.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from hansa_common.secagg.terms import Turn
from hansa_common.settings import Strict

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Bytes = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=20_000)]
_Round = Annotated[int, Field(ge=0, lt=2**32)]
_Attempt = Annotated[int, Field(ge=1, lt=2**16)]


MOST_ISSUED = 8
"""Setups that wait to be used: the next round's, and those of attempts that came to nothing."""


class Issued(Strict):
    """A setup that left, and has not been used."""

    round: _Round
    attempt: _Attempt
    setup: _Hash
    announcement: _Hash | None = None
    """The one announcement that was seen for it."""


class Used(Strict):
    """The newest turn in which the site masked, and what it has signed since."""

    round: _Round
    attempt: _Attempt
    announcement: _Hash
    members: _Bytes
    """Bitmap of the sites announced."""
    model: _Hash
    survivors: _Bytes | None = None
    """Bitmap of the set that was signed. From then on the round counts as opened."""
    confirmation: _Bytes | None = None
    """Verbatim."""
    answer: Annotated[_Bytes | None, Field(repr=False)] = None
    """Verbatim."""


class SiteMemory(Strict):
    """Durable state of one site in one study."""

    format: Literal[1] = 1
    study_key: _Hash | None = None
    """Public half of the study key with which all this was done."""
    floor: tuple[_Round, _Attempt] | None = None
    """Round and attempt up to which everything is over, but for answering in ``used``."""
    issued: Annotated[tuple[Issued, ...], Field(max_length=MOST_ISSUED)] = ()
    used: Used | None = None
    stopped: Annotated[str, Field(max_length=2_000)] = ""
    """Why this site takes no further part before it has a new study key; empty while all is well."""

    def find(self, turn: Turn) -> Issued | None:
        """Return what is known of a setup that has not been used."""
        return next((one for one in self.issued if (one.round, one.attempt) == (turn.round, turn.attempt)), None)

    def is_over(self, turn: Turn) -> bool:
        """Tell whether nothing new may be done in a turn."""
        return self.floor is not None and (turn.round, turn.attempt) <= self.floor

    def issuing(self, turn: Turn, setup: bytes) -> Self:
        """Return it with one more setup dealt out; where there are too many, the oldest turn is over.

        Args:
            turn: Of the setup.
            setup: Its digest.
        """
        one = Issued(round=turn.round, attempt=turn.attempt, setup=setup.hex())
        issued = sorted((*self.issued, one), key=lambda each: (each.round, each.attempt))
        over = issued[:-MOST_ISSUED]
        floor = (over[0].round, over[0].attempt) if over else self.floor
        return self.model_copy(update={"issued": tuple(issued[len(over) :]), "floor": floor})

    def seeing(self, turn: Turn, announcement: bytes) -> Self:
        """Return it with the announcement that was seen in a turn."""
        known = self.find(turn)
        assert known is not None
        seen = known.model_copy(update={"announcement": announcement.hex()})
        return self.model_copy(update={"issued": tuple(seen if one is known else one for one in self.issued)})

    def using(self, turn: Turn, *, announcement: bytes, members: bytes, model: bytes) -> Self:
        """Return it with a turn's setup used up; all turns up to this one are over.

        Args:
            turn: Round and attempt.
            announcement: Its digest.
            members: Bitmap of the sites announced.
            model: SHA-256 of the model.
        """
        floor = (turn.round, turn.attempt)
        used = Used(
            round=turn.round,
            attempt=turn.attempt,
            announcement=announcement.hex(),
            members=members.hex(),
            model=model.hex(),
        )
        issued = tuple(one for one in self.issued if (one.round, one.attempt) > floor)
        return self.model_copy(update={"used": used, "floor": floor, "issued": issued})

    def saying(self, **values: bytes) -> Self:
        """Return it with what was signed in the turn that is used: ``survivors``, ``confirmation`` or ``answer``."""
        assert self.used is not None
        changes = {name: value.hex() for name, value in values.items()}
        return self.model_copy(update={"used": self.used.model_copy(update=changes)})
