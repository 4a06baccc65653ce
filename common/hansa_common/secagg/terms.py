"""What a plan says about masking, and everything that follows from the list of its sites.

``n`` is the number of sites of the plan, ``t`` the threshold, ``m`` how many sites may collude with the server. They
come from the plan and from nothing the server says later.
"""

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hansa_common.errors import MessageError, PlanError

Cohort = Literal["fixed", "changing"]
RingBits = Literal[16, 32]

FEWEST_SITES = 3
MOST_SITES = 100
_LABEL = "hansa-secagg-1"


def threshold(sites: int) -> int:
    """Return ``t``, of how many sites a sum can be opened at the least, in a plan with so many sites."""
    return 2 * sites // 3 + 1


def colluders(sites: int) -> int:
    """Return ``m``, how many of a plan's sites may collude with the server without learning another's update."""
    return max(1, -(-sites // 3) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The part of a plan that secure aggregation stands on.

    Args:
        plan_digest: SHA-256 of the plan, 64 hexadecimal digits.
        sites: The plan's sites in ascending order of their names.
        cohort: ``fixed``: only the sum over all sites is ever opened. ``changing``: sums over those that are there.
        ring_bits: Sums are modulo 2 to this power.

    Raises:
        PlanError: Masking cannot protect a list like this.
    """

    plan_digest: str
    sites: tuple[str, ...]
    cohort: Cohort
    ring_bits: RingBits

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.plan_digest):
            raise ValueError("A plan's digest is 64 hexadecimal digits.")
        if self.n < FEWEST_SITES:
            raise PlanError(
                f"federation.sites: {self.n} sites; masked sums need at least {FEWEST_SITES}.",
                path="federation.sites",
                advice="In a sum of two, each site sees the other's update: add a site, or leave masking out.",
            )
        if self.n > MOST_SITES:
            raise PlanError(
                f"federation.sites: {self.n} sites; masked sums are made for at most {MOST_SITES}.",
                path="federation.sites",
            )
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("A plan's sites are distinct and in ascending order.")
        if self.cohort not in {"fixed", "changing"} or self.ring_bits not in {16, 32}:
            raise ValueError("A cohort is 'fixed' or 'changing', a ring has 16 or 32 bits.")

    @property
    def n(self) -> int:
        """How many sites the plan has."""
        return len(self.sites)

    @property
    def threshold(self) -> int:
        """``t``: how many sites must agree on a set of survivors, and how many shares rebuild a secret.

        Two sets of ``t`` have more than a third of the sites in common, more than may collude: one honest site at
        least would have to sign both.
        """
        return threshold(self.n)

    @property
    def colluders(self) -> int:
        """``m``: with how many sites the server may collude and still learn the sum only."""
        return colluders(self.n)

    @property
    def minimum(self) -> int:
        """The smallest set over which a sum may be opened."""
        return max(self.threshold, FEWEST_SITES)

    @property
    def required(self) -> int:
        """How many sites a round needs: all of them where the cohort is fixed."""
        return self.n if self.cohort == "fixed" else self.minimum

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The type of a masked vector's words, little-endian."""
        return np.dtype("<u2" if self.ring_bits == 16 else "<u4")  # noqa: PLR2004

    def index(self, site: str) -> int:
        """Return a site's place in the plan's list; its shares are points at ``index + 1``.

        Raises:
            MessageError: It is not a site of the plan.
        """
        try:
            return self.sites.index(site)
        except ValueError:
            raise MessageError(f"'{site}' is not a site of this plan.") from None

    def pack(self, sites: Iterable[str]) -> bytes:
        """Return a set of sites as a bitmap, the first site in the lowest bit."""
        bits = 0
        for site in sites:
            bits |= 1 << self.index(site)
        return bits.to_bytes(self.bitmap_bytes, "little")

    def unpack(self, bitmap: bytes) -> tuple[str, ...]:
        """Return the sites of a bitmap in ascending order.

        Raises:
            MessageError: It has another length, or names a site that there is not.
        """
        bits = int.from_bytes(bitmap, "little")
        if len(bitmap) != self.bitmap_bytes or bits >> self.n:
            raise MessageError("A set of sites names more sites than the plan has.")
        return tuple(site for place, site in enumerate(self.sites) if bits >> place & 1)

    @property
    def bitmap_bytes(self) -> int:
        """The length of a bitmap."""
        return -(-self.n // 8)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Turn:
    """One attempt at one round of a plan; turns of one plan are ordered."""

    plan_digest: str
    round: int
    attempt: int

    def __post_init__(self) -> None:
        if not (0 <= self.round < 1 << 32 and 1 <= self.attempt < 1 << 16):
            raise MessageError(f"There is no round {self.round}, attempt {self.attempt}.")

    def __str__(self) -> str:
        return f"round {self.round}, attempt {self.attempt}"

    def context(self, purpose: str, *parts: str | bytes) -> bytes:
        """Return bytes that no other turn, purpose or list of parts has: HKDF's ``info``, a commitment's prefix.

        Each part is preceded by its length, so no two lists give the same bytes.
        """
        parts = (f"{_LABEL}/{purpose}", bytes.fromhex(self.plan_digest), *parts)
        encoded = [part.encode() if isinstance(part, str) else part for part in parts]
        numbers = struct.pack(">IH", self.round, self.attempt)
        return numbers + b"".join(struct.pack(">H", len(part)) + part for part in encoded)

    def digest(self, purpose: str, *parts: str | bytes) -> bytes:
        """Return the SHA-256 of ``context``."""
        return hashlib.sha256(self.context(purpose, *parts)).digest()
