"""The operator's calls about members: the same over the control socket and, where no server runs, in this process."""

from collections.abc import Callable
from typing import Any

from hansa_common.plan_names import SiteName
from hansa_common.roster import Hash, SignedBinding, SignedRoster
from hansa_common.settings import Strict
from hansa_server.federation.attendance import Attendance
from hansa_server.federation.certification import AuthorityState
from hansa_server.federation.membership import Membership


class SiteRequest(Strict):
    """``Invite``, ``Revoke``, ``Unfreeze``: one site."""

    site: SiteName


class Nothing(Strict):
    """No argument, or nothing to say."""


class InviteReply(Strict):
    """The invitation's string."""

    invitation: str
    expires: int


class ShownSite(Strict):
    """One line of ``sites``; times are Unix times in seconds."""

    name: str
    status: str
    organisation: str
    fingerprint: str
    online_since: float | None
    last_seen: float | None
    last_round: str
    certificate_until: float | None


class SitesReply(Strict):
    """All sites, and which roster is in force."""

    sites: tuple[ShownSite, ...]
    roster_version: int


class RosterRequest(Strict):
    """``InstallRoster``: a signed roster."""

    roster: SignedRoster
    force: bool = False
    """Also where sites have nothing but certificates of an authority that it drops."""


class ShownAuthority(Strict):
    """One line of ``authority show``."""

    pin: Hash
    state: AuthorityState
    sites: tuple[str, ...]
    """Those whose newest certificate is its own, and good."""


class AuthoritiesReply(Strict):
    """All authorities, in the order in which they were made."""

    authorities: tuple[ShownAuthority, ...]


class RosterReply(Strict):
    """``Roster``: the one in force."""

    roster: SignedRoster


class ApplicationsReply(Strict):
    """Bindings of sites that wait for the founder."""

    applications: tuple[SignedBinding, ...]


Function = Callable[[Any], Strict]


def administration_calls(membership: Membership, attendance: Attendance) -> dict[str, tuple[type[Strict], Function]]:
    """Return the calls by name, with the type of their request."""

    def invite(request: SiteRequest) -> Strict:
        invitation = membership.invite(request.site)
        return InviteReply(invitation=invitation.encode(), expires=invitation.expires)

    def sites(_request: Nothing) -> Strict:
        shown = tuple(
            ShownSite(**{name: getattr(row, name) for name in ShownSite.model_fields}) for row in attendance.sites()
        )
        return SitesReply(sites=shown, roster_version=membership.roster().roster.version)

    def revoke(request: SiteRequest) -> Strict:
        membership.revoke(request.site)
        return Nothing()

    def unfreeze(request: SiteRequest) -> Strict:
        membership.unfreeze(request.site)
        return Nothing()

    def install(request: RosterRequest) -> Strict:
        membership.install_roster(request.roster, force=request.force)
        return Nothing()

    def authorities(_request: Nothing) -> Strict:
        sites = membership.certification.certified_sites()
        return AuthoritiesReply(
            authorities=tuple(
                ShownAuthority(pin=pin, state=state, sites=tuple(sites.get(pin, ())))
                for pin, state in membership.certification.states().items()
            )
        )

    def roster(_request: Nothing) -> Strict:
        return RosterReply(roster=membership.roster())

    def applications(_request: Nothing) -> Strict:
        return ApplicationsReply(applications=membership.applications())

    return {
        "Invite": (SiteRequest, invite),
        "Sites": (Nothing, sites),
        "Revoke": (SiteRequest, revoke),
        "Unfreeze": (SiteRequest, unfreeze),
        "InstallRoster": (RosterRequest, install),
        "Roster": (Nothing, roster),
        "Applications": (Nothing, applications),
        "Authorities": (Nothing, authorities),
    }
