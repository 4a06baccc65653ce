"""What a site keeps of the invitation that it joined with."""

from typing import Self

from hansa_common.invitation import Address, Invitation
from hansa_common.plan_names import SiteName, StudyName
from hansa_common.roster import Hash
from hansa_common.settings import Strict
from hansa_common.signing import PublicKey


class SiteMembership(Strict):
    """Which federation this site belongs to; from the invitation, and not changed by anybody afterwards."""

    federation: StudyName
    site: SiteName
    enrolment: Address
    address: Address
    """Of the federation port."""
    founder: PublicKey
    roster: Hash
    """Digest of the roster that the site accepted when it joined."""

    @classmethod
    def of(cls, invitation: Invitation) -> Self:
        """Return what a site keeps of the invitation that it joins with."""
        return cls(
            federation=invitation.federation,
            site=invitation.site,
            enrolment=invitation.enrolment,
            address=invitation.address,
            founder=invitation.founder,
            roster=invitation.roster,
        )
