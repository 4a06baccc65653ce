"""Which plans Newton's method gives the pooled fit of: convex, small, and with every site in every round."""

from hansa_common.contract import feature_count, outputs
from hansa_common.model_plan import ModelPlan
from hansa_common.models.fitting import model_options
from hansa_common.models.registry import Contract
from hansa_common.training_plan import TrainingPlan
from hansa_common.transport_plan import TransportPlan

MOST = 1_000
"""Parameters: a site then sends 4 MB a round and the coordinator takes about a second for a step; both grow with the
square and the cube of their number."""


def num_parameters(model: ModelPlan, data: Contract) -> int:
    """Return ``P`` of logistic or Cox regression."""
    features = feature_count(data)
    if model.name == "cox":
        return features
    return (features + 1) * (1 if getattr(model_options(model), "outputs", "") == "sigmoid" else outputs(data))


def require_exact_fit(
    *,
    model: ModelPlan,
    data: Contract,
    training: TrainingPlan,
    transport: TransportPlan,
    quorum: float,
    sites_per_round: int | None,
) -> None:
    """Return if sums over all sites' examples determine the fit, and are small enough to send.

    Args:
        model: Of the plan.
        data: Of the plan.
        training: Of the plan; only what changes the loss matters.
        transport: Of the plan.
        quorum: Of the rounds.
        sites_per_round: Of the rounds.

    Raises:
        ValueError: They do not; the text starts with the key.
    """
    wants = "with aggregation.strategy = 'newton'"
    if model.name not in {"logistic", "cox"}:
        raise ValueError(f"model.name: found '{model.name}'; allowed {wants} are 'cox' and 'logistic': it is for them.")
    if model.backbone is not None or model.lora is not None:
        raise ValueError(f"model: {wants} all of the model is fitted; leave out backbone and lora.")
    if (found := num_parameters(model, data)) > MOST:
        raise ValueError(
            f"model.name: '{model.name}' has {found:,} parameters on these data; allowed {wants} are {MOST:,}, for "
            "each site sends a Hessian, which has about half the square of them."
        )
    if sites_per_round is not None:
        raise ValueError(f"rounds.sites_per_round: {wants} each round sums over all sites; leave this key out.")
    if quorum != 1.0:
        raise ValueError(f"rounds.quorum: found {quorum:g}; allowed {wants} is 1: a missing site is another fit.")
    if training.class_weights != "none":
        raise ValueError(f"training.class_weights: {wants} every example weighs the same; leave this key out.")
    if training.augmentation != type(training.augmentation)():
        raise ValueError(f"training.augmentation: {wants} the examples are taken as they are; leave this table out.")
    for key, codec in (("codec", transport.codec), ("down", transport.down)):
        if codec != "float32":
            raise ValueError(f"transport.{key}: found '{codec}'; allowed {wants} is 'float32': rounding would move it.")
