"""Which authority certifies, under the roster in force and under a site's own, and who has its certificates."""

from collections.abc import Callable, Collection
from typing import Literal

from sqlalchemy import Engine, select, text

from hansa_common.errors import PeerRefused, UsageError
from hansa_common.roster import Roster, SignedRoster
from hansa_common.wire.protocol import Denial, RosterNotice
from hansa_server.federation.authority import Authorities, Authority
from hansa_server.federation.database import certificates

AuthorityState = Literal["certifies", "trusted", "not in the roster", "retired"]


class Certification:
    """The authorities of a federation, as its rosters have them.

    Args:
        engine: The database.
        authorities: Those of the folder.
        in_force: Returns the roster in force; ``None`` before the first.
        after: Returns the rosters after a version, the oldest first.
        sites: Returns the sites that certificates are good for.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        authorities: Authorities,
        in_force: Callable[[], SignedRoster | None],
        after: Callable[[int], list[SignedRoster]],
        sites: Callable[[], Collection[str]],
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._authorities = authorities
        self._in_force = in_force
        self._after = after
        self._sites = sites
        self._clock = clock

    def first_pin(self) -> str:
        """Return the pin of the first authority."""
        return next(iter(self._authorities.certificates()))

    def check(self, roster: Roster, *, force: bool) -> None:
        """Refuse a roster under which this coordinator cannot certify, or that leaves sites without a certificate.

        Raises:
            UsageError: It is such a one; with ``force`` only where it names an authority that is not here.
            StorageError: The key of the authority that is to certify is missing.
        """
        pins = roster.coordinator.certificate_authorities
        if unknown := set(pins) - set(self._authorities.certificates()):
            raise UsageError(
                f"The roster names {len(unknown)} authority that is not this coordinator's.",
                advice="Check the file; an authority is made with 'hansa server authority rotate'.",
            )
        if self._authorities.can_certify:
            self._authorities.unlock(pins[-1])
        dropped = set(self.pins()) - set(pins)
        left = sorted(site for pin, found in self.certified_sites().items() if pin in dropped for site in found)
        if left and not force:
            raise UsageError(
                f"{', '.join(left)}: still with a certificate of the authority that this roster retires.",
                advice="A site takes a new one by itself while it is connected; see 'hansa server authority show'. "
                "With --force it is cut off now and comes back by its node key.",
            )

    def pins(self) -> tuple[str, ...]:
        """Return the authorities in force; the last one certifies."""
        roster = self._in_force()
        return roster.roster.coordinator.certificate_authorities if roster else (self.first_pin(),)

    def states(self) -> dict[str, AuthorityState]:
        """Return each authority by its pin, in the order in which they were made."""
        pins, every = self.pins(), [signed.roster for signed in self._after(0)]
        named = {pin for roster in every for pin in roster.coordinator.certificate_authorities}

        def state(pin: str) -> AuthorityState:
            if pin in pins:
                return "certifies" if pin == pins[-1] else "trusted"
            return "retired" if pin in named else "not in the roster"

        return {pin: state(pin) for pin in self._authorities.certificates()}

    def certified_sites(self) -> dict[str, list[str]]:
        """Return, by authority, the sites whose newest certificate is its own; those with no good one are left out."""
        query = (
            select(certificates)
            .where(certificates.c.revoked == 0, certificates.c.expires > self._clock())
            .order_by(text("rowid"))
        )
        with self._engine.connect() as connection:
            newest = {row.site: row.authority or self.first_pin() for row in connection.execute(query)}
        found: dict[str, list[str]] = {}
        for site, pin in sorted(newest.items()):
            if site in self._sites():
                found.setdefault(pin, []).append(site)
        return found

    def retired_sites(self) -> list[str]:
        """Return the sites whose newest certificate is of an authority that the roster no longer has."""
        return [site for pin, found in self.certified_sites().items() if pin not in self.pins() for site in found]

    def certifier(self, roster_version: int = 0) -> Authority:
        """Return the authority that certifies: the newest in the roster in force, and in the one that a site has.

        Args:
            roster_version: The newest that the site has; 0 for the one in force.

        Raises:
            UsageError: There is no passphrase.
            PeerRefused: The site's roster has none that is still in force.
        """
        pins = self.pins()
        roster = self._in_force()
        if roster and 0 < roster_version < roster.roster.version:
            theirs = self._after(roster_version - 1)[0].roster.coordinator.certificate_authorities
            pins = tuple(pin for pin in pins if pin in theirs)
        if not pins:
            raise PeerRefused("This site's roster has retired authorities only.", denial=Denial.UNKNOWN)
        return self._authorities.unlock(pins[-1])

    def certifier_pin(self) -> str:
        """Return the pin of the authority that certifies."""
        return self.pins()[-1]

    def trusted_certificates(self) -> tuple[str, ...]:
        """Return the authorities whose certificates get a site to where it is told that they were retired, as PEM."""
        return tuple(self._authorities.certificates().values())

    def notice(self, signed: SignedRoster) -> RosterNotice:
        """Return what a site is told of a version: with the certificates of the authorities that it pins."""
        known = self._authorities.certificates()
        pins = signed.roster.coordinator.certificate_authorities
        return RosterNotice(roster=signed, authorities=tuple(known[pin] for pin in pins if pin in known))
