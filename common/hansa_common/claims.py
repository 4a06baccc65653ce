"""What may be said of a protection, in words that the site's review and the coordinator's report share.

They claim no more than the protocols give. What a combination means as a whole says ``hansa_common.combinations``.
"""

from typing import Final

ISOLATED: Final = "a dishonest server can isolate {whose} update by two rounds that differ by one site"
"""What a changing cohort costs; ``whose`` is "your" before a site signs, "a site's" in a report."""

NOT_MORE: Final = (
    "Not more: a hostile model may expose examples in the sum, consecutive sums over different cohorts say something "
    "about the difference, and neither the correctness of the sum nor the norms of malicious sites' updates are "
    "verified."
)
"""What secure aggregation does not give."""

ONLY_NOISE: Final = "Only differential privacy limits what a sum tells."


def hides(colluders: int) -> str:
    """Say what secure aggregation gives against so many sites that collude with the server."""
    return f"It hides one site's update within each opened sum from the server and {others(colluders)}."


def others(colluders: int) -> str:
    """Write ``up to 3 other sites``."""
    return f"up to {colluders} other {'site' if colluders == 1 else 'sites'}"
