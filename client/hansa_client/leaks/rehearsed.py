"""A study as its coordinator sees it, from the first round to the last: what the models say about examples.

Shapes: ``N`` examples, ``P`` parameters, ``m`` canaries of all sites together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from hansa_client.data.source import Indices
from hansa_client.leaks.canaries import Planted
from hansa_client.leaks.observation import observed
from hansa_client.leaks.pipeline import Sites
from hansa_client.leaks.similarity import Floats
from hansa_client.training.examples import Loader, model_input
from hansa_client.training.flat_model import build_flat_model
from hansa_common.parameters import Vector
from hansa_common.plan import StudyPlan

_BATCH = 256  # examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the coordinator can work out, the higher the score the likelier trained on.

    Attributes:
        members: Scores of the sites' own training examples after the last round.
        others: Scores of examples that nobody trained on.
        canaries: ``float64 [m]``, scores of the canaries over all rounds.
        model: ``float32 [P]``, the last model.
    """

    members: Floats = field(repr=False)
    others: Floats = field(repr=False)
    canaries: Floats = field(repr=False)
    model: Vector = field(repr=False)


class _Judge:
    """The losses of one site's examples under any model."""

    def __init__(self, plan: StudyPlan, planted: Planted) -> None:
        device = torch.device("cpu")
        self._model = build_flat_model(plan, plan.seed, device)
        loader = Loader(plan.data, planted.site.dataset, planted.site.splits.train, device)
        self._load = loader.load

    def losses(self, parameters: Vector, examples: Indices) -> Floats:
        """Return the cross-entropy ``float64 [N]`` of each example."""
        self._model.load(parameters)
        self._model.module.eval()
        with torch.inference_mode():
            found = [
                functional.cross_entropy(self._model.module(model_input(features)), labels, reduction="none")
                for features, labels in self._load(examples).batches(_BATCH)
            ]
        return torch.cat(found).double().numpy() if len(examples) else np.zeros(0)


def rehearse(
    plan: StudyPlan, planted: Sequence[Planted], tell: Callable[[float], None], *, rounds: int | None = None
) -> Seen:
    """Run the study with canaries and score every example by what the coordinator saw.

    A canary's score is how much its loss falls in a round, on the average of all rounds: under what the coordinator
    reads of its site (the update of the site itself, or the mean update where the plan hides the site's own), and under
    the common model, which everybody reads. The first says more while canaries are being learned, the second later.

    Args:
        plan: With the protection to be measured.
        planted: All sites.
        tell: Called with the share that is done.
        rounds: How many of the rounds to run; all where ``None``.

    Raises:
        HansaError: A site's training failed.
    """
    sites = Sites(plan, [site.site for site in planted])
    judges = [_Judge(plan, site) for site in planted]
    _, parameters = sites.initial()
    falls = [np.zeros(len(site.canaries)) for site in planted]
    losses = [judge.losses(parameters, site.canaries) for judge, site in zip(judges, planted, strict=True)]
    views: dict[str, Vector] = {}
    count = rounds or plan.rounds.count
    for number in range(1, count + 1):
        round_ = observed(plan, sites.updates(parameters, number))
        views = {site: parameters + observation.delta for observation in round_.views for site in observation.sites}
        parameters = parameters + round_.step
        for place, (judge, site) in enumerate(zip(judges, planted, strict=True)):
            before, losses[place] = losses[place], judge.losses(parameters, site.canaries)
            falls[place] += 2 * before - judge.losses(views[site.site.name], site.canaries) - losses[place]
        tell(number / count)
    return Seen(
        members=-_all(judges, planted, views, "members"),
        others=-_all(judges, planted, views, "others"),
        canaries=np.concatenate(falls) / count,
        model=parameters,
    )


def _all(judges: Sequence[_Judge], planted: Sequence[Planted], views: dict[str, Vector], group: str) -> Floats:
    return np.concatenate(
        [judge.losses(views[site.site.name], getattr(site, group)) for judge, site in zip(judges, planted, strict=True)]
    )
