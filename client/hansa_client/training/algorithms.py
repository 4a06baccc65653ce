"""Which algorithm a plan asks a site for."""

from collections.abc import Callable, Mapping
from typing import Final

from hansa_client.training.algorithm import Algorithm
from hansa_client.training.newton import Newton
from hansa_client.training.personal import Ditto, Divided, FineTune
from hansa_client.training.procedure import Procedure
from hansa_client.training.scaffold import Scaffold
from hansa_common.personalisation import Method
from hansa_common.plan import StudyPlan

_PERSONAL: Final[Mapping[Method, type[Algorithm]]] = {
    "fedbn": Divided,
    "fedper": Divided,
    "ditto": Ditto,
    "finetune": FineTune,
}
_STRATEGIES: Final[Mapping[str, type[Algorithm]]] = {"newton": Newton, "scaffold": Scaffold}


def build_algorithm(plan: StudyPlan, procedure: Procedure, prepare: Callable[[StudyPlan], Procedure]) -> Algorithm:
    """Return what a site does in this study.

    Raises:
        TaskRefused: The plan keeps layers at the site that the model does not have.
    """
    if plan.personalisation is not None:
        return _PERSONAL[plan.personalisation.method](plan, procedure, prepare)
    return _STRATEGIES.get(plan.aggregation.strategy, Algorithm)(plan, procedure, prepare)
