"""``[model]`` of a plan: which architecture a study trains, from what it starts, and which part of it travels."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from hansa_common.contract import Text
from hansa_common.plan_options import Options, collect_options
from hansa_common.settings import Strict

_Layers = Annotated[tuple[Text, ...], Field(max_length=1_000)]


class BackbonePlan(Strict):
    """``[model.backbone]``: weights from a file that each site has, named by its hash.

    What is frozen stays as the file has it at every site, and does not travel.
    """

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
    """Name of a safetensors file, or of a ``state_dict`` that PyTorch wrote, in the site's folder of weights."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the file's bytes; a site with another file refuses the study."""
    frozen: bool = False
    """Train only what is not taken from the file."""
    fresh: _Layers = ()
    """Layers that start anew instead, each with all below it; the last layer with weights where left out."""
    learning_rates: Annotated[dict[Text, Annotated[float, Field(ge=0.0, le=1_000.0)]], Field(max_length=1_000)] = Field(
        default_factory=dict
    )
    """Factor on ``training.learning_rate`` for a layer and all below it; 0 freezes it. The longest name counts."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.frozen and self.learning_rates:
            raise ValueError("learning_rates: with frozen = true nothing of the file is trained; leave one out.")
        return self


class LoRAPlan(Strict):
    """``[model.lora]``: low-rank adapters on linear layers of a frozen backbone; adapters and fresh layers travel.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """

    rank: Annotated[int, Field(ge=1, le=4_096)] = 8
    alpha: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    """The adapter's product is multiplied with alpha / rank."""
    targets: _Layers = ()
    """Names of linear layers, or ends of their names (``query``); all of the backbone where left out."""


class ModelPlan(Strict):
    """``[model]``: a name from ``hansa_common.models``, and its options beside it."""

    name: Text
    options: Options = Field(default_factory=dict)
    backbone: BackbonePlan | None = None
    lora: LoRAPlan | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return collect_options(values, "name", "backbone", "lora")

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.lora is not None and (self.backbone is None or not self.backbone.frozen):
            raise ValueError("lora: adapters go on a frozen backbone: add [model.backbone] with frozen = true.")
        return self
