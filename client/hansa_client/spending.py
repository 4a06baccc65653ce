"""What a site's answers cost in privacy, entered in its ledger before the work is done."""

from pathlib import Path

from hansa_client.settings import SiteSettings
from hansa_common.messages import EvaluateTask, TrainTask
from hansa_common.plan import StudyPlan


class Spending:
    def __init__(self, folder: Path, settings: SiteSettings) -> None:
        self._folder, self._settings = folder, settings

    def charge(self, plan: StudyPlan, task: TrainTask | EvaluateTask) -> None:
        assert plan.privacy.differential is None
