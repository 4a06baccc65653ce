"""A proposed study in plain words: what a data steward reads before signing."""

from collections.abc import Sequence
from datetime import UTC, datetime

from hansa_client.review_protection import protects, sends_curvature, what_leaves
from hansa_common.app_plan import AppPlan, read_any
from hansa_common.contract import ArrayContract, ImageContract, NumberTarget, SurvivalTarget, label_names
from hansa_common.display import printable
from hansa_common.identity import fingerprint
from hansa_common.models.registry import Contract
from hansa_common.plan import StudyPlan
from hansa_common.roster import Roster
from hansa_common.wire.protocol import Proposal

_MOST_COLUMNS = 30


def describe(proposal: Proposal, roster: Roster, *, answer: str) -> str:
    """Return the page.

    Args:
        proposal: What the coordinator asks.
        roster: The one this site accepted.
        answer: What the site has said so far.
    """
    plan = read_any(proposal.plan)
    lines = [f"Study {proposal.study}", ""]
    lines += _rows("Who asks", _who_asks(proposal, roster))
    lines += _rows("Takes part", (", ".join(plan.sites if isinstance(plan, AppPlan) else _sites(plan)),))
    if isinstance(plan, AppPlan):
        lines += _app(plan)
    else:
        lines += _study(plan)
    lines += _rows("Plan", (f"{plan.digest()}", f"to read aloud: {fingerprint(plan.model_dump(mode='json'))}"))
    lines += _rows("Your answer", (answer,))
    return "\n".join(lines)


def _who_asks(proposal: Proposal, roster: Roster) -> tuple[str, ...]:
    when = datetime.fromtimestamp(proposal.proposed_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    asks: tuple[str, ...] = (f"The coordinator of {roster.federation}, founded by {roster.founder.name}, on {when}.",)
    if roster.founder_is_coordinator:
        asks += ("NOTE: the founder's key lies on the coordinator's machine: the coordinator alone admits members.",)
    return asks


def _sites(plan: StudyPlan) -> tuple[str, ...]:
    return plan.federation.sites if plan.federation else ()


def _study(plan: StudyPlan) -> list[str]:
    rounds = plan.rounds
    cohort = f"{rounds.sites_per_round} sites drawn anew" if rounds.sites_per_round else "all sites"
    lines = _rows("Purpose", (plan.purpose,))
    lines += _rows("Your data", _data(plan))
    lines += _rows(
        "What is done",
        (
            _work(plan, cohort),
            _split(plan),
        ),
    )
    lines += _rows("What leaves", what_leaves(plan))
    lines += _rows("What protects it", protects(plan))
    names = ", ".join(_sites(plan))
    lines += _rows("Who gets the model", (f"The coordinator, and every site that takes part: {names}.",))
    return lines


def _work(plan: StudyPlan, cohort: str) -> str:
    training, times = plan.training, f"{plan.rounds.count} times"
    if sends_curvature(plan):
        return f"Loss, gradient and Hessian of a model '{plan.model.name}' are computed here {times}; by {cohort}."
    effort = f"{training.epochs} epochs" if training.epochs is not None else f"{training.steps} steps"
    return (
        f"A model '{plan.model.name}' is trained here {times}, {effort} each, in batches of {training.batch_size} with "
        f"{training.optimizer}; each time by {cohort}.{_own(plan)}"
    )


def _own(plan: StudyPlan) -> str:
    own = plan.personalisation
    return "" if own is None else f" This site gets a model of its own too, by '{own.method}'."


def _split(plan: StudyPlan) -> str:
    evaluation = plan.evaluation
    if evaluation.column is not None:
        return f"Your data says in the column '{evaluation.column}' which rows train, validate and test."
    shares = f"{evaluation.validation:.0%} to validate, {evaluation.test:.0%} to test, the rest to train"
    if evaluation.group is not None:
        return f"Your data is split once, by '{evaluation.group}': about {shares}."
    return f"Your data is split once: {shares}."


def _data(plan: StudyPlan) -> tuple[str, ...]:
    contract = plan.data
    labels = _learned(contract)
    if isinstance(contract, ImageContract):
        shape = f"Images of {contract.height} x {contract.width}, {contract.channels} channels."
    elif isinstance(contract, ArrayContract) and contract.text is not None:
        shape = (
            f"Texts, {contract.shape[0]} {contract.text.tokens} an example; {len(contract.tokens):,} are told apart."
        )
    elif isinstance(contract, ArrayContract) and contract.windows is not None:
        shape = f"Windows of {contract.shape[0]} rows, with {_listed(contract.windows.columns)}."
    elif isinstance(contract, ArrayContract):
        shape = f"Arrays of shape {list(contract.shape)}."
    else:
        shape = f"A table with {_listed([column.name for column in contract.columns])}."
    return shape, labels, f"At least {contract.minimum_examples} examples. Which file it is, your site.toml says."


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _MOST_COLUMNS} more" if len(names) > _MOST_COLUMNS else ""
    return f"{len(names)} columns: {', '.join(names[:_MOST_COLUMNS])}{rest}"


def _learned(contract: Contract) -> str:
    match contract.target:
        case None:
            classes = ", ".join(label_names(contract)[:_MOST_COLUMNS])
            return f"Each with one of {len(contract.classes)} classes: {classes}."
        case NumberTarget() as number:
            return f"Each with a number to predict{f', in {number.unit}' if number.unit else ''}."
        case SurvivalTarget() as survival:
            return (
                f"Each with a time ('{survival.time}') and whether an event was seen then ('{survival.event}'): the "
                "risk of the event is predicted."
            )
    anomaly = contract.target.anomaly
    told = f"'{anomaly}' tells anomalies, which are not trained on." if anomaly else "Nothing tells anomalies."
    return f"The examples themselves are learned: what a model reconstructs badly is unusual. {told}"


def _app(plan: AppPlan) -> list[str]:
    lines = _rows("What is done", (f"Another Flower app runs here: {plan.client_app}, as installed on this machine.",))
    lines += _rows("Configuration", tuple(f"{key} = {value}" for key, value in sorted(plan.run_config.items())))
    return lines + _rows(
        "What leaves",
        (
            (
                "WHATEVER THE APP SENDS. Hansa does not know what it is: no release step checks it, nothing is resumed "
                "and there is no report. Approve it only if you know the app's code."
            ),
        ),
    )


def _rows(title: str, texts: tuple[str, ...]) -> list[str]:
    width = 20
    return [f"{title if index == 0 else '':{width}}{printable(text)}" for index, text in enumerate(texts)]
