"""Cox regression: the log hazard is linear in the features, without a bias, initialised with zeros.

Cox, "Regression Models and Life-Tables", Journal of the Royal Statistical Society B 34 (1972), equation 9. The partial
likelihood does not change with a constant, so a bias would have no gradient.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from hansa_common.contract import feature_count
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn


class CoxOptions(Strict):
    """Cox regression has no options."""


def build(options: CoxOptions, contract: Contract) -> "nn.Module":
    """Return the model: ``float32 [N, ...]`` to log hazards ``[N, 1]``."""
    from torch import nn

    del options
    linear = nn.Linear(feature_count(contract), 1, bias=False)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=linear))


def _unsuited(options: CoxOptions) -> str:
    del options
    return "the partial likelihood compares examples with each other, so none has a gradient alone"


ARCHITECTURES.register("cox")(
    Architecture(
        options=CoxOptions,
        accepts=frozenset({"image", "array", "table"}),
        build=build,
        learns=frozenset({"survival"}),
        unsuited_to_privacy=_unsuited,
    )
)
