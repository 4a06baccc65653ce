"""What the sites of a study train: the work is that of a site, with training examples of our choice.

An attack can only be judged where the truth is known, so the examples that a site trains on are set here. All that
comes after, DP-SGD included, is ``hansa_client.work`` as at a real site; ``observation`` does with it what the release
step does. That both together give the bytes that a site sends is a test.

Shapes: ``P`` parameters, ``S`` sites.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hansa_client.data.source import Dataset, Indices
from hansa_client.site_data import SiteData
from hansa_client.work import Work, prepare_process
from hansa_common.messages import InitialTask, Message, TrainTask, Update
from hansa_common.parameters import ParameterSpec, Vector
from hansa_common.plan import StudyPlan, parse_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteUpdate:
    """What training gave at one site.

    Attributes:
        site: Its name.
        delta: ``float32 [P]``.
        num_examples: Its training examples.
    """

    site: str
    delta: Vector = field(repr=False)
    num_examples: int


def changed_plan(plan: StudyPlan, changes: Mapping[str, Mapping[str, Any]]) -> StudyPlan:
    """Return the plan with other sections, checked as a whole again.

    Args:
        plan: The study.
        changes: Sections by name, each in place of the plan's.

    Raises:
        PlanError: The changed plan is not valid.
    """
    return parse_plan(plan.model_dump(exclude_none=True) | dict(changes))


def trained_on(site: SiteData, examples: Indices, dataset: Dataset | None = None) -> SiteData:
    """Return the site with these training examples in place of its own.

    Args:
        site: Of a simulation.
        examples: Positions in ``dataset``, ascending.
        dataset: In place of the site's own.
    """
    splits = replace(site.splits, train=examples)
    own = np.unique(np.concatenate([splits.train, splits.validation, splits.test]))
    return replace(site, dataset=dataset or site.dataset, splits=splits, own=own)


class Sites:
    """The sites of one study in this process: they answer tasks as they would in a federation.

    Args:
        plan: The study, or a variant of it.
        sites: What each has, in the order of their names.
    """

    def __init__(self, plan: StudyPlan, sites: Sequence[SiteData]) -> None:
        prepare_process()
        self.plan = plan
        self._works = [Work(plan, site, plan.simulation.device if plan.simulation else "auto") for site in sites]

    def initial(self) -> tuple[ParameterSpec, Vector]:
        """Return the model's tensors and its initial parameters ``float32 [P]``."""
        reply = self._works[0].do(Message(header=InitialTask(plan_digest=self.plan.digest())))
        spec = getattr(reply.header, "spec", None)
        assert isinstance(spec, ParameterSpec)
        assert reply.vector is not None
        return spec, reply.vector

    def updates(self, parameters: Vector, round_number: int) -> tuple[SiteUpdate, ...]:
        """Have each site train one round.

        Raises:
            TrainingError: A site's training failed.
        """
        return tuple(self._update(work, parameters, round_number) for work in self._works)

    def _update(self, work: Work, parameters: Vector, round_number: int) -> SiteUpdate:
        task = TrainTask(plan_digest=self.plan.digest(), round=round_number, attempt=1)
        reply = work.do(Message(header=task, vector=parameters))
        assert isinstance(reply.header, Update)
        assert reply.vector is not None
        return SiteUpdate(site=reply.header.site, delta=reply.vector, num_examples=reply.header.num_examples)
