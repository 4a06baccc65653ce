"""Whether a plan's model fits its data, its training and its privacy; decided when the plan is read."""

from typing import Any, Protocol

from hansa_common.contract import ArrayContract
from hansa_common.errors import PlanError, UsageError
from hansa_common.model_plan import ModelPlan
from hansa_common.models.outputs import target_kind
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.plan_options import parse_options
from hansa_common.privacy_plan import DifferentialPrivacyPlan
from hansa_common.settings import Strict


class _Training(Protocol):
    """What of ``[training]`` a model can be unfit for."""

    @property
    def augmentation(self) -> Any: ...


def model_options(model: ModelPlan) -> Strict:
    """Return the model's options, checked against its own type.

    Raises:
        UsageError: There is no such model.
        PlanError: An option is unknown or wrong; the path starts with ``model``.
    """
    options: Strict = parse_options(ARCHITECTURES.find(model.name).options, model.options, section="model")
    return options


def check_model(
    model: ModelPlan, data: Contract, training: _Training, differential: DifferentialPrivacyPlan | None
) -> None:
    """Return if the model can be trained so.

    Raises:
        ValueError: It cannot; the message names the key.
    """
    try:
        architecture = ARCHITECTURES.find(model.name)
    except UsageError as error:
        raise ValueError(f"model.name: {error}") from None
    _check_data(model.name, architecture, data)
    try:
        options = model_options(model)
        architecture.check(options, data)
    except PlanError as error:
        raise ValueError(error.message) from None
    except ValueError as error:
        of_option = str(error).partition(":")[0] in type(options).model_fields
        raise ValueError(f"model.{error}" if of_option else f"model.name: {error}") from None
    augmentation, vocabulary = training.augmentation, getattr(options, "vocabulary", None)
    if vocabulary is None and isinstance(data, ArrayContract) and data.text is not None:
        raise ValueError(
            "model.vocabulary: data.text makes token ids, which are no numbers to count with; take a model with "
            f"'vocabulary', and set it to {(data.maximum or 0) + 1:.0f}."
        )
    if vocabulary is not None and (augmentation.noise or augmentation.mixup):
        raise ValueError("training.augmentation: noise and mixup are for numbers, and model.vocabulary for token ids.")
    if differential is not None and differential.kind == "example":
        reason = architecture.unsuited_to_privacy(options)
        if reason:
            raise ValueError(f"privacy.differential.kind: 'example' is not for model.name = '{model.name}': {reason}.")


def _check_data(name: str, architecture: Architecture, data: Contract) -> None:
    if data.kind not in architecture.accepts:
        raise ValueError(
            f"model.name: '{name}' does not learn from data.kind = '{data.kind}'; allowed is "
            f"{', '.join(sorted(architecture.accepts))}."
        )
    if (target := target_kind(data)) not in architecture.learns:
        raise ValueError(
            f"model.name: '{name}' does not learn {target}, which the data contract asks for; it learns "
            f"{', '.join(sorted(architecture.learns))}."
        )
