"""What a site's answers cost in privacy, entered in the ledger of its people before the work is done.

The whole plan is reserved before its first round; the round that would overspend is refused before it is trained, with
how many of the plan's rounds still fit. What was charged stays charged, whatever becomes of the round.
"""

from collections.abc import Sequence
from pathlib import Path

from hansa_client.ledger import Ledger, open_ledger
from hansa_client.privacy_book import Purpose
from hansa_client.settings import SiteSettings
from hansa_common.errors import PolicyRefused, UsageError
from hansa_common.losses import losses_of_closing, losses_of_rounds
from hansa_common.messages import EvaluateTask, TrainTask
from hansa_common.plan import StudyPlan
from hansa_common.privacy import Event, Unit


class Spending:
    """Charges this site's ledgers.

    Args:
        folder: Of the ledgers.
        settings: The operator's: whose privacy each study spends.
    """

    def __init__(self, folder: Path, settings: SiteSettings) -> None:
        self._folder = folder
        self._settings = settings

    def check(self, plan: StudyPlan) -> None:
        """Return if there is a ledger for the people whose data a study uses, and it is kept for the plan's unit.

        Raises:
            PolicyRefused: There is none, or it is kept for another unit.
        """
        if plan.privacy.differential is not None:
            self._ledger(plan)

    def charge(self, plan: StudyPlan, task: TrainTask | EvaluateTask, *, name: str, parameters: int) -> None:
        """Enter what the answer to a task will cost; the same task again costs nothing.

        Args:
            plan: The study.
            task: What the site is asked to do.
            name: Of the task, for ever: the same plan, round and attempt under another name is another release.
            parameters: ``P``, of the model.

        Raises:
            BudgetExceeded: It would exceed the budget; nothing is entered.
            PolicyRefused: As ``check``.
            StorageError: The disk is full or fails: nothing may leave.
        """
        if plan.privacy.differential is None:
            return
        ledger, digest = self._ledger(plan), plan.digest()
        sites = plan.federation.sites if plan.federation else ()
        rounds = plan.rounds.count
        whole = losses_of_rounds(plan, sites, rounds, dimension=parameters)
        units = len(sites) if plan.privacy.differential.kind != "example" else plan.data.minimum_examples
        ledger.reserve(digest, (*whole, *losses_of_closing(plan)), rounds=rounds, units=units)
        events: Sequence[Event]
        if isinstance(task, TrainTask):
            events, purpose = losses_of_rounds(plan, sites, 1, dimension=parameters), Purpose.TRAINING
        else:
            events, purpose = losses_of_closing(plan), Purpose.EVALUATION
        if events:
            number = task.round if isinstance(task, TrainTask) else rounds + 1
            ledger.charge(digest, task=name, round_number=number, attempt=task.attempt, events=events, purpose=purpose)

    def _ledger(self, plan: StudyPlan) -> Ledger:
        noised, found = plan.privacy.differential, self._settings.population(plan.name)
        assert noised is not None
        if found is None:
            raise PolicyRefused(
                f"site.toml does not say whose privacy the study '{plan.name}' spends.",
                advice="Add [populations.NAME] with studies, and fix their budget with 'hansa site budget NAME'.",
            )
        name, population = found
        if noised.kind == "example" and noised.unit != population.person:
            raise PolicyRefused(
                f"The plan takes {_whose(noised.unit)}; at this site '{name}' takes {_whose(population.person)}.",
                advice="A person with several rows would be protected too little; ask for a plan with the right unit.",
            )
        try:
            ledger = open_ledger(self._folder, name)
        except UsageError:
            raise PolicyRefused(
                f"'{name}' has no privacy budget at this site.", advice=f"Fix one, once: hansa site budget {name}"
            ) from None
        unit = Unit.EXAMPLE if noised.kind == "example" else Unit.SITE
        if ledger.terms.unit is not unit:
            raise PolicyRefused(
                f"The plan protects a {unit.value}; the ledger of '{name}' is kept for a {ledger.terms.unit.value}.",
                advice="Units never mix in one ledger: name another population for this study in site.toml.",
            )
        return ledger


def _whose(column: str | None) -> str:
    return "each row for a person of its own" if column is None else f"'{column}' to say whose a row is"
