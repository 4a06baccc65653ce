"""Secure aggregation: the server learns the sum of the sites' updates and no single one.

Two state machines that face each other, ``SiteSession`` and ``ServerSession``, and the values that pass between them.
No network, no clock and no files: what must be durable goes through a callback, what is random through an argument.
"""

from hansa_common.secagg.agreement import Directory
from hansa_common.secagg.fixedpoint import FixedPoint, Rounding
from hansa_common.secagg.memory import SiteMemory
from hansa_common.secagg.messages import (
    Announcement,
    Answer,
    Confirmation,
    MaskedInput,
    Setup,
    StudyKey,
    Survivors,
)
from hansa_common.secagg.server_session import ServerSession
from hansa_common.secagg.site_session import SiteSession
from hansa_common.secagg.terms import Terms, Turn

__all__ = [
    "Announcement",
    "Answer",
    "Confirmation",
    "Directory",
    "FixedPoint",
    "MaskedInput",
    "Rounding",
    "ServerSession",
    "Setup",
    "SiteMemory",
    "SiteSession",
    "StudyKey",
    "Survivors",
    "Terms",
    "Turn",
]
