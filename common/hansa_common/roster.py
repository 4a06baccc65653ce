"""The roster: who belongs to a federation, signed by the organisation that founded it.

The coordinator keeps the roster and cannot write it. A site accepts a new version only if the founder signed it, if it
says which version it follows, and if that is the one the site has. A certificate admits nobody who is not in it.

Evolution: thresholds of several signers and amendments are added as optional keys; ``format`` counts up when a meaning
changes, and a format that is not known is refused.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from hansa_common.canonical import digest
from hansa_common.errors import IdentityError
from hansa_common.identity import NodePublicKeys, fingerprint
from hansa_common.plan_names import SiteName, StudyName
from hansa_common.settings import Strict
from hansa_common.signing import PublicKey, Signature, sign, verify

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
UnixTime = Annotated[int, Field(ge=0, le=2**40)]
OrganisationName = Annotated[str, Field(min_length=1, max_length=200)]
MAX_MEMBERS = 10_000


class Organisation(Strict):
    """An institution and the key it signs with."""

    name: OrganisationName
    key: PublicKey


class Binding(Strict):
    """An organisation's word that these node keys are its own site's."""

    format: Literal[1] = 1
    federation: StudyName
    site: SiteName
    organisation: Organisation
    keys: NodePublicKeys
    issued_at: UnixTime

    def fingerprint(self) -> str:
        """Return what both sides read to each other over the phone."""
        return fingerprint(self.model_dump(mode="json"))


class SignedBinding(Strict):
    """A binding and its organisation's signature."""

    binding: Binding
    signature: Signature

    def verify(self) -> None:
        """Return if the organisation that the binding names signed it.

        Raises:
            IdentityError: It did not.
        """
        verify(self.binding.organisation.key, "binding", self.binding.model_dump(mode="json"), self.signature)


def sign_binding(binding: Binding, key: Ed25519PrivateKey) -> SignedBinding:
    """Sign a binding with the organisation's key."""
    return SignedBinding(binding=binding, signature=sign(key, "binding", binding.model_dump(mode="json")))


class CoordinatorPins(Strict):
    """What a coordinator is known by."""

    certificate_authorities: Annotated[tuple[Hash, ...], Field(min_length=1, max_length=4)]
    """SHA-256 of each authority's SubjectPublicKeyInfo, the oldest first: the last one certifies. Two while it replaces
    the other."""

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        if len(set(self.certificate_authorities)) != len(self.certificate_authorities):
            raise ValueError("certificate_authorities: one is named twice.")
        return self


class Roster(Strict):
    """One version of the federation's membership."""

    format: Literal[1] = 1
    federation: StudyName
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    previous: Hash | None = None
    """Digest of the version before; none for the first."""
    founder: Organisation
    founder_is_coordinator: bool = False
    """The founder's key lies on the coordinator's machine: whoever holds that machine decides who is a member."""
    coordinator: CoordinatorPins
    members: Annotated[tuple[SignedBinding, ...], Field(max_length=MAX_MEMBERS)] = ()
    """In ascending order of the sites' names."""
    issued_at: UnixTime

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [member.binding.site for member in self.members]
        if names != sorted(set(names)):
            raise ValueError("members: a site is named twice, or the sites are not in ascending order.")
        if (self.version == 1) != (self.previous is None):
            raise ValueError("previous: the first version has none, every other has one.")
        if any(member.binding.federation != self.federation for member in self.members):
            raise ValueError("members: a binding belongs to another federation.")
        return self

    def digest(self) -> str:
        """Return the SHA-256 of the canonical bytes."""
        return digest(self.model_dump(mode="json"))

    def member(self, site: str) -> Binding | None:
        """Return a site's binding, or ``None`` where it is no member."""
        return next((member.binding for member in self.members if member.binding.site == site), None)

    def following(
        self,
        *,
        issued_at: int,
        members: Sequence[SignedBinding] | None = None,
        authorities: Sequence[Hash] | None = None,
    ) -> "Roster":
        """Return the next version, unsigned, with these members and authorities' pins, else with those of this."""
        ordered = sorted(self.members if members is None else members, key=lambda member: member.binding.site)
        pins = CoordinatorPins(certificate_authorities=tuple(authorities)) if authorities else self.coordinator
        return Roster(
            **self.model_dump(exclude={"version", "previous", "members", "issued_at", "founder", "coordinator"}),
            founder=self.founder,
            coordinator=pins,
            version=self.version + 1,
            previous=self.digest(),
            members=tuple(ordered),
            issued_at=issued_at,
        )


class SignedRoster(Strict):
    """A roster and its founder's signature."""

    roster: Roster
    signature: Signature

    def verify(self, founder_key: str) -> None:
        """Return if the founder whose key is known signed it, and each member's organisation its binding.

        Raises:
            IdentityError: The roster names another founder, or a signature does not hold.
        """
        if self.roster.founder.key != founder_key:
            raise IdentityError("The roster names another founder than the one this federation is known by.")
        verify(founder_key, "roster", self.roster.model_dump(mode="json"), self.signature)
        for member in self.roster.members:
            member.verify()

    def verify_successor(self, of: "SignedRoster") -> None:
        """Return if this version is signed by the same founder and follows directly upon ``of``.

        Raises:
            IdentityError: It is older, leaves a version out, belongs to another history or is not signed.
        """
        self.verify(of.roster.founder.key)
        expected = (of.roster.federation, of.roster.version + 1, of.roster.digest())
        if (self.roster.federation, self.roster.version, self.roster.previous) != expected:
            raise IdentityError(
                f"Roster version {self.roster.version} does not follow upon version {of.roster.version}.",
                advice="The coordinator shows an old or another history; ask the founder which roster is in force.",
            )


def sign_roster(roster: Roster, key: Ed25519PrivateKey) -> SignedRoster:
    """Sign a roster with the founder's key."""
    return SignedRoster(roster=roster, signature=sign(key, "roster", roster.model_dump(mode="json")))
