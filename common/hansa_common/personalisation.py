"""``[personalisation]`` of a plan: what of the model is each site's own, and how it comes about.

``fedbn`` and ``fedper`` keep tensors at the site, so that no model is common to all; ``ditto`` and ``finetune`` give
each site a whole model of its own beside the common one. What is a site's own never leaves it.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from hansa_common.contract import Text
from hansa_common.settings import Strict

Method = Literal["fedbn", "fedper", "ditto", "finetune"]

_KEYS: Final[dict[Method, tuple[str, ...]]] = {
    "fedbn": (),
    "fedper": ("local",),
    "ditto": ("pull",),
    "finetune": ("epochs", "learning_rate"),
}


class PersonalisationPlan(Strict):
    """``[personalisation]``: one method and its keys."""

    method: Method
    """``fedbn`` (Li 2021): normalisation layers stay at the site. ``fedper`` (Arivazhagan 2019): the named layers do.
    ``ditto`` (Li 2021): a model of the site's own is trained beside the common one. ``finetune``: the last model is
    trained on at the site once the study is over."""
    local: Annotated[tuple[Text, ...], Field(max_length=1_000)] = ()
    """With ``fedper``: names of layers, each with all that is below it. Left out: the last layer with weights."""
    pull: Annotated[float, Field(ge=0.0, le=1e6)] = 0.1
    """With ``ditto``: its lambda, which draws the site's own model to the common one."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """With ``finetune``: passes over the site's training split."""
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """With ``finetune``; that of ``[training]`` where it is left out."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        for key in sorted(self.model_fields_set - {"method"}):
            if key not in _KEYS[self.method] and getattr(self, key) != type(self).model_fields[key].default:
                found = next(method for method, keys in _KEYS.items() if key in keys)
                raise ValueError(f"{key}: this key is for method = '{found}'; method is '{self.method}'.")
        return self

    @property
    def splits_model(self) -> bool:
        """Some tensors never travel, so that there is no common model that is whole."""
        return self.method in ("fedbn", "fedper")

    @property
    def keeps_state(self) -> bool:
        """A site needs something of its own from its last round."""
        return self.method != "finetune"
