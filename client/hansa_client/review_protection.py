"""What leaves a site under a plan's protection, and what that protection is worth, in plain words before signing."""

from collections.abc import Iterator
from typing import Final

from hansa_common.claims import ISOLATED, NOT_MORE, ONLY_NOISE, hides, others
from hansa_common.combinations import decide
from hansa_common.contract import NumberTarget, ReconstructionTarget, SurvivalTarget
from hansa_common.plan import StudyPlan
from hansa_common.preprocessing_plan import unit_column
from hansa_common.privacy_plan import DifferentialPrivacyPlan, PrivacyPlan, SecureAggregationPlan
from hansa_common.secagg.terms import colluders, threshold
from hansa_common.strategies import STRATEGIES

_NEVER: Final = "No example, no name of a file and no text of an error."

_CHANGE: Final = "the change of the model's weights"

_CURVATURE: Final = (
    "the mean over the training examples of the loss, its gradient and its Hessian, which say more of the examples "
    "than a trained model does (of a column of zeros and ones, how many have each)"
)


def what_leaves(plan: StudyPlan) -> tuple[str, ...]:
    """Say what leaves the site, in each round, at the beginning and at the end."""
    masked, noised = plan.privacy.secure_aggregation, plan.privacy.differential
    if noised is not None:
        clipped = ("Whether your update was longer than the round's bound.",) if noised.adaptive is not None else ()
        return (*_noised(plan, noised, masked), *clipped, *_held_back(plan), _NEVER)
    if masked is not None:
        return (
            *_masked(plan, masked),
            *_decisions(plan),
            *_statistics(plan),
            *_ensemble(plan),
            *_explanation(plan),
            _NEVER,
        )
    update = _CURVATURE if sends_curvature(plan) else f"{_CHANGE}{_part(plan)}"
    return (
        (f"In each round: {update}, the number of training examples, the training loss, and {_answers(plan)}."),
        (
            f"At the beginning: {_sizes(plan)}. At the end: the same {_word(plan)} on the test split"
            f"{_sureness(plan)}. The coordinator can read all of it."
        ),
        *_held_back(plan),
        *_decisions(plan),
        *_own_model(plan),
        *_statistics(plan),
        *_ensemble(plan),
        *_explanation(plan),
        _NEVER,
    )


def _answers(plan: StudyPlan) -> str:
    """Say what leaves about the model's answers to validation examples."""
    match plan.data.target:
        case None:
            return "counts of right and wrong answers on the validation split, by class"
        case NumberTarget():
            return "sums of the numbers, of the model's errors and of powers of both, over the validation split"
        case SurvivalTarget():
            return (
                "counts of people, of events and of pairs of people that the model puts in the right order, of the "
                "validation split"
            )
    apart = ", of normal examples and of anomalies apart" if plan.data.target.anomaly is not None else ""
    return f"sums of the reconstruction errors over the validation split{apart}"


def _word(plan: StudyPlan) -> str:
    return "counts" if plan.data.target is None or isinstance(plan.data.target, SurvivalTarget) else "sums"


def _sizes(plan: StudyPlan) -> str:
    match plan.data.target:
        case None if plan.data.kind == "array" and plan.data.text is not None and plan.data.text.learn == "next":
            return "the number of examples in each split, and how often each token of the plan follows, a rare one too"
        case None:
            return "the number of examples in each split and class"
        case NumberTarget():
            return "the number of examples in each split"
        case SurvivalTarget():
            return "the number of people in each split, and with an event"
    return "the number of examples in each split" + (
        ", and of anomalies" if plan.data.target.anomaly is not None else ""
    )


def _sureness(plan: StudyPlan) -> str:
    """Say that the test split's scores leave as histograms, where they do."""
    match plan.data.target:
        case None:
            return ", and histograms of how sure the model was, by class"
        case ReconstructionTarget() as learned if learned.anomaly is not None:
            return ", and histograms of the errors"
    return ""


def _decisions(plan: StudyPlan) -> Iterator[str]:
    """Say what leaves for a threshold by costs and for the comparison of groups."""
    evaluation = plan.evaluation
    if not evaluation.decision_rows:
        return
    named = [f"'{column}' ({', '.join(values)})" for column, values in (evaluation.groups or {}).items()]
    within = f", for all and within each group of {'; '.join(named)}" if named else ""
    masked = plan.privacy.secure_aggregation is not None
    small = ""
    if named:
        whose = "of all sites together" if masked else "of yours"
        small = f" A group of fewer than {evaluation.minimum_group:,} test examples {whose} is left out."
    readers = "Only the sum over the sites can be read." if masked else "The coordinator can read them."
    what = f"how many examples of the validation and the test split get which score, by class{within}"
    yield f"At the end also: {what}. {readers}{small}"


def _own_model(plan: StudyPlan) -> Iterator[str]:
    if plan.personalisation is not None:
        yield "At the end also: the same of this site's own model on the test split. The model itself stays here."


def _part(plan: StudyPlan) -> str:
    """Say which part of the update leaves, where it is not all of it."""
    if not plan.transport.holds_back:
        return ""
    return f" (only the {100.0 * plan.transport.sent_fraction:g} % of its values that are largest)"


def _held_back(plan: StudyPlan) -> tuple[str, ...]:
    """Say where the rest of the update stays."""
    if not plan.transport.holds_back:
        return ()
    return (
        (
            "The rest of the change stays in this site's folder and is added to the change of your next round: it "
            "leaves later, or never. This saves bytes, and protects nothing."
        ),
    )


def sends_curvature(plan: StudyPlan) -> bool:
    """Tell whether this site's update is no change of the model, but sums over its examples."""
    traits = STRATEGIES.get(plan.aggregation.strategy)
    return traits is not None and traits.second_order


def _ensemble(plan: StudyPlan) -> tuple[str, ...]:
    """Say what else is counted where the last versions are tested as one."""
    if plan.tested == 1:
        return ()
    return (f"At the end also: the counts of the last {plan.tested} models as one on the test split, {_who(plan)}.",)


def _explanation(plan: StudyPlan) -> tuple[str, ...]:
    """Say what of an explanation leaves, and what stays."""
    explain = plan.evaluation.explain
    if explain is None:
        return ()
    readers = "Only the sum over the sites can be read. " if plan.privacy.secure_aggregation is not None else ""
    return (
        (
            f"At the end also: how much each input mattered to the model's answers, summed over the {explain.split} "
            f"examples of each class of which at least {explain.minimum_examples} are explained. {readers}Pictures and "
            f"rows of single examples ({explain.kept_examples} at most) are written into this site's folder and never "
            "leave it."
        ),
    )


def _statistics(plan: StudyPlan) -> tuple[str, ...]:
    preprocessing = plan.preprocessing
    if not preprocessing.needs_statistics:
        return ()
    if plan.data.kind == "array" and plan.data.text is not None:
        return (
            (
                f"Once, before the first round: how many texts of the training split hold each of the "
                f"{len(plan.data.tokens):,} tokens that the plan names, how many hold another one, and how many there "
                f"are, {_who(plan)}; nothing of a token {_few(plan)}."
            ),
        )
    condition = preprocessing.condition
    within = f", in each of {len(condition.levels)} conditions by '{condition.column}'," if condition else ""
    histogram = f", and a histogram of {preprocessing.bins:,} bins," if preprocessing.needs_histograms else ""
    return (
        (
            f"Once, before the first round: number, sum and sum of squares{histogram} of each column{within} over the "
            f"training split, {_who(plan)}; nothing of a column {_few(plan)}."
        ),
    )


def _few(plan: StudyPlan) -> str:
    """Say of what nothing leaves, for it would tell of single people."""
    unit, least = unit_column(plan.data, plan.evaluation.group), f"{plan.preprocessing.minimum_count:,}"
    whose = f"values of '{unit}'" if unit is not None else "examples"
    return f"that fewer than {least} {whose} have"


def _who(plan: StudyPlan) -> str:
    return "under the same masks" if plan.privacy.secure_aggregation is not None else "which the coordinator can read"


def protects(plan: StudyPlan) -> tuple[str, ...]:
    """Say what the protection gives and whom one trusts; nothing for a plan without ``[privacy]``."""
    privacy = plan.privacy
    if privacy == PrivacyPlan():
        return ()
    return tuple(_protects(plan, privacy, privacy.secure_aggregation, privacy.differential))


def _count(plan: StudyPlan) -> int:
    """Return how many sites the plan lists; 0 for a plan that leaves it to the coordinator's proposal."""
    return len(plan.federation.sites) if plan.federation else 0


def _only_the_sum(masked: SecureAggregationPlan, sites: int) -> str:
    if masked.cohort == "fixed":
        return f"only the sum over all {f'{sites} ' if sites else ''}sites can be read"
    least = f"{threshold(sites)} of the {sites}" if sites else "two thirds of the"
    return f"only the sum over at least {least} sites can be read"


def _masked(plan: StudyPlan, masked: SecureAggregationPlan) -> Iterator[str]:
    yield f"In each round: {_CHANGE}, under masks: {_only_the_sum(masked, _count(plan))}."
    yield (
        f"Under the same masks: {_answers(plan)}; the training loss and the number of examples it is a mean of; at the "
        f"end, the {_word(plan)} on the validation and the test split{_sureness(plan)}."
    )
    if plan.personalisation is not None:
        yield "This site's own model stays here."
    if plan.privacy.weights == "examples":
        yield "In the open: the number of your training examples, and how long the work took."
    else:
        yield "In the open: how long the work took. The number of your training examples stays here."
    yield (
        "The sizes of the splits and the examples of each class stay here, unless the policy in your site.toml lets "
        "them out; then the coordinator can read them and the counts of your site alone."
    )


def _noised(plan: StudyPlan, noised: DifferentialPrivacyPlan, masked: SecureAggregationPlan | None) -> Iterator[str]:
    change, sites = _CHANGE, _count(plan)
    if noised.kind == "example":
        change += ", from training with noise (DP-SGD)"
    elif noised.kind == "site_distributed":
        change += ", with your share of the noise"
    if masked is not None:
        yield f"In each round: {change}, under masks: {_only_the_sum(masked, sites)}."
    else:
        yield f"In each round: {change}{_part(plan)}. The coordinator can read it."
    if noised.metrics_noise is None:
        yield "No sizes, no training loss, no times, and no counts of right and wrong answers."
    else:
        yield (
            "Counts of right and wrong answers with noise, by class, in each round on the validation split and at the "
            f"end on the test split too, {_who(plan)}; the noise multiplier is {noised.metrics_noise:g}, and the same "
            "budget pays for them."
        )
        yield "No sizes, no losses and no times."


def _protects(
    plan: StudyPlan,
    privacy: PrivacyPlan,
    masked: SecureAggregationPlan | None,
    noised: DifferentialPrivacyPlan | None,
) -> Iterator[str]:
    if masked is None and noised is None:
        yield "Nothing hides your update: neither masks nor noise."
    if masked is not None:
        yield from _masks(masked, _count(plan), has_noise=noised is not None)
    if noised is not None:
        yield from _noise(noised, masked, _count(plan))
    yield from _weights_and_bounds(privacy, masked)
    if (masked is not None or noised is not None) and plan.aggregation.strategy in STRATEGIES:
        decision = decide(
            strategy=plan.aggregation.strategy,
            ring_bits=masked.ring_bits if masked else None,
            kind=noised.kind if noised else None,
            codec=plan.transport.codec,
        )
        yield f"In short: {decision.text}"


def _masks(masked: SecureAggregationPlan, sites: int, *, has_noise: bool) -> Iterator[str]:
    few = hides(colluders(sites)) if sites else "It hides one site's update within each opened sum from the server."
    yield f"Secure aggregation. {few}"
    yield NOT_MORE if has_noise else f"{NOT_MORE} {ONLY_NOISE}"
    if masked.cohort == "changing":
        yield f"A round goes on without sites that drop out: {ISOLATED.format(whose='your')}."
    else:
        yield "The cohort is fixed: a round counts with all sites or not at all."


def _noise(noised: DifferentialPrivacyPlan, masked: SecureAggregationPlan | None, sites: int) -> Iterator[str]:
    if noised.kind == "example":
        whose = f"one person (column '{noised.unit}' says whose a row is)" if noised.unit else "one row"
        yield f"Differential privacy for {whose}; this machine adds the noise, and nobody else is trusted with that."
    elif noised.kind == "site_server":
        reads = "the sum of the updates" if masked is not None else "your update"
        yield (
            "Differential privacy for your site as a whole, against those who get the model. You trust the "
            f"coordinator: it reads {reads} and adds the noise."
        )
    else:
        few = f", with {others(colluders(sites))} that collude with it" if sites else ""
        yield (
            "Differential privacy for your site as a whole: each site adds its share of the noise under the masks, so "
            f"it holds against the coordinator too{few or ', if few sites collude with it'}."
        )
    yield _meaning(noised)
    if (adaptive := noised.adaptive) is not None:
        yield (
            f"Your update is clipped to an L2 norm of {noised.clipping_bound:g} in the first round. Later the bound "
            f"follows the {adaptive.quantile:g} quantile of all sites' norms, between {adaptive.least:g} and "
            f"{adaptive.most:g}: you tell the coordinator whether your update was clipped, and it releases how many "
            f"were, with noise (multiplier {adaptive.noise_multiplier:g}). The noise multiplier of updates is "
            f"{noised.noise_multiplier:g}. A round that would cost more than epsilon is refused."
        )
        return
    yield (
        f"{'Gradients of a person are' if noised.kind == 'example' else 'Your update is'} clipped to an L2 norm of "
        f"{noised.clipping_bound:g}; the noise multiplier is {noised.noise_multiplier:g}. A round that would cost more "
        "than epsilon is refused."
    )


def _meaning(noised: DifferentialPrivacyPlan) -> str:
    if noised.kind == "example":
        whose = "one person's rows" if noised.unit else "one row"
        whose += " of yours"
    else:
        whose = "your site's updates"
    return (
        f"Epsilon {noised.epsilon:g} and delta {noised.delta:g} for the whole study mean: whether {whose} took part or "
        f"not, nothing that comes out is more than e to the power of {noised.epsilon:g} times as likely, but for a "
        f"chance of {noised.delta:g}."
    )


def _weights_and_bounds(privacy: PrivacyPlan, masked: SecureAggregationPlan | None) -> Iterator[str]:
    if privacy.weights == "equal":
        yield "Every site counts the same."
    else:
        most = f", at most {privacy.maximum_examples:,}" if privacy.maximum_examples is not None else ""
        yield f"A site counts by its training examples{most}; the weights are known to the server."
    if privacy.clipping_bound is not None:
        yield f"Your update is clipped to an L2 norm of {privacy.clipping_bound:g} before it leaves."
    if masked is not None:
        yield f"A coordinate of an update beyond {masked.coordinate_range:g} is cut off."
