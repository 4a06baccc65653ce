"""What a coordinator proposes, as this site reads it."""

from hansa_common.app_plan import read_any
from hansa_common.errors import MessageError, UsageError
from hansa_common.wire.protocol import Proposal


def proposal_digest(proposal: Proposal) -> str:
    """Return the digest of a proposal's plan, computed here.

    Raises:
        MessageError: The plan is none.
    """
    try:
        return read_any(proposal.plan).digest()
    except UsageError:
        raise MessageError("A proposal's plan cannot be read by this version.") from None
