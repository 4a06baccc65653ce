"""Reads a site's data for a study and times one round of it, without a coordinator; run by ``hansa site check``."""

import sys

import numpy as np

from hansa_client.site_data import real_site
from hansa_client.work import Work, prepare_process
from hansa_common.errors import HansaError
from hansa_common.feature_sums import read
from hansa_common.messages import InitialTask, Message, StatisticsTask, TrainTask, Update
from hansa_common.plan import plan_from_json
from hansa_common.prepared import Prepared, prepare
from hansa_common.simulation_plan import source_from_json
from hansa_common.traffic import round_traffic
from hansa_common.transport import train_task

_ADVICE_CODE = 1


def _own_preprocessing(work: Work) -> Prepared | None:
    """Return what this site's own statistics make of its features; in the study it is those of all sites."""
    plan = work.plan
    if not plan.preprocessing.needs_statistics:
        return None
    sums = work.do(Message(header=StatisticsTask(plan_digest=work.digest))).sums
    assert sums is not None
    return prepare(read(sums, plan.preprocessing, plan.data), plan.preprocessing, plan.data)


def main() -> None:
    """Print what was found in one line; exit code 1 and a reason where it cannot be done."""
    plan, source = plan_from_json(sys.argv[1]), source_from_json(sys.argv[2])
    try:
        prepare_process()
        site = real_site(plan, name="rehearsal", index=int(sys.argv[3]), source=source)
        work = Work(plan, site, "auto")
        digest = plan.digest()
        initial = work.do(Message(header=InitialTask(plan_digest=digest)))
        task = TrainTask(plan_digest=digest, round=1, attempt=1, prepared=_own_preprocessing(work))
        assert initial.vector is not None
        start = np.pad(initial.vector, (0, (plan.carried - 1) * initial.vector.size))
        update = work.do(train_task(plan, task, start)).header
    except HansaError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this process speaks by its output
        sys.exit(_ADVICE_CODE)
    assert isinstance(update, Update)
    print(  # noqa: T201
        f"{len(site.dataset):,} examples fulfil the contract; a round takes about {update.seconds:.1f} s here, "
        f"{plan.rounds.count} rounds; {round_traffic(plan, work.parameters)}"
    )
