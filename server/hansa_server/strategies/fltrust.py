"""FLTrust: updates count as far as they point where a trusted site's does.

Cao, Fang, Liu, Gong: FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping. NDSS 2021, algorithm 2.

In the paper the server trains on clean data of its own. This server never trains, so the plan names a site whose data
are clean (docs/adr/0080-the-root-of-fltrust-is-a-site.md).
"""

from collections.abc import Collection, Sequence

import numpy as np

from hansa_common.errors import StudyFailed
from hansa_common.parameters import Accumulator
from hansa_common.strategies import FLTrustOptions
from hansa_server.strategies.robust import VectorRule
from hansa_server.strategies.strategy import STRATEGIES


@STRATEGIES.register("fltrust")
class FLTrust(VectorRule):
    """Trust is ``max(0, cos(delta_k, root))``; the step is the mean, by trust, of the updates at the root's length.

    The root's own update is the yardstick and counts only where no other is trusted. Mixing is among the others.
    """

    options = FLTrustOptions

    def __init__(self, *, root: str, hostile: float | None = None, nnm: bool = False) -> None:
        super().__init__(hostile=hostile, nnm=nnm)
        self._root = root

    def require(self, sites: Collection[str]) -> None:
        """Refuse a study without the trusted site, or with too few others."""
        if self._root not in sites:
            raise StudyFailed(
                f"aggregation.root = '{self._root}' takes no part in the study.",
                advice="FLTrust holds every update against the trusted site's: that site must take part.",
            )
        self.hostile_among(len(sites) - 1)

    def mixing(self, gram: Accumulator) -> Accumulator:
        """Mix nothing yet: the root's update stays as it is, and only ``weigh`` knows which one that is."""
        return np.eye(len(gram))

    def weigh(self, gram: Accumulator, sites: Sequence[str]) -> Accumulator:
        """Return trust times the ratio of lengths, over the sum of trust.

        Raises:
            StudyFailed: The trusted site did not deliver.
        """
        if self._root not in sites:
            raise StudyFailed(
                f"The trusted site '{self._root}' delivered no update, and FLTrust cannot judge the others without.",
                advice="Resume the study when that site is back.",
            )
        root = sites.index(self._root)
        others = np.array([index for index in range(len(sites)) if index != root], dtype=np.intp)
        weights = np.zeros(len(sites))
        mixing = super().mixing(gram[np.ix_(others, others)])
        mixed = np.diag(mixing @ gram[np.ix_(others, others)] @ mixing.T)
        lengths, length = np.sqrt(np.maximum(mixed, 0.0)), float(np.sqrt(gram[root, root]))
        along = mixing @ gram[others, root]
        with np.errstate(divide="ignore", invalid="ignore"):
            trust = np.nan_to_num(np.maximum(along / (lengths * length), 0.0), posinf=0.0)
            scaled = np.nan_to_num(trust * length / lengths, posinf=0.0)
        if not trust.sum() > 0.0:
            weights[root] = 1.0
        else:
            weights[others] = (scaled / trust.sum()) @ mixing
        self.left_out = tuple(site for index, site in enumerate(sites) if index != root and not weights[index])
        return weights
