"""``[transport]``: in how many bits updates and models travel; what it changes is the model, and never a guarantee."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from hansa_common.settings import Strict

Codec = Literal["float32", "bf16", "int8", "int4", "topk"]
FRACTION: Final = 0.01
"""Of an update's values that travel with ``topk``, where the plan names none."""


class TransportPlan(Strict):
    """How vectors travel between server and sites in the rounds; the closing exchange sends the model whole."""

    codec: Codec = "float32"
    """Of the sites' updates. ``int8`` and ``int4`` round stochastically in blocks of 256 values: right in the mean.
    ``topk`` sends the largest values only, as ``int8``; a site keeps the rest and adds it to its next update."""
    fraction: Annotated[float, Field(ge=1e-4, le=0.5)] | None = None
    """Of the values that travel with ``topk``; ``FRACTION`` where it is left out."""
    down: Literal["float32", "bf16", "int8"] = "float32"
    """Of the model that a round starts from, rounded to the nearest value: the same for all sites."""
    compress: Literal["none", "zstd"] = "none"
    """What is left of the bytes after rounding; loses nothing."""

    @field_validator("down", mode="before")
    @classmethod
    def _sends_whole_models(cls, value: Any) -> Any:
        if value == "topk":
            raise ValueError(
                "'topk' is for updates: a model that lacks most of its values is none, and a site that sat a round out "
                "would miss what was left out for good; allowed are 'float32', 'bf16' and 'int8'."
            )
        return value

    @model_validator(mode="after")
    def _fraction_is_of_topk(self) -> Self:
        if self.fraction is not None and self.codec != "topk":
            raise ValueError(f"fraction: it says how many values 'topk' sends; codec is '{self.codec}'.")
        return self

    def check_masked(self) -> None:
        """Refuse what masks do not go with.

        Raises:
            ValueError: With the key and the reason.
        """
        if self.packs_models or self.compress != "none":
            raise ValueError(
                "transport: with secure aggregation each site must see the same model bit for bit, and masked values "
                "cannot be compressed; leave out 'down' and 'compress'."
            )

    @property
    def sent_fraction(self) -> float:
        """Of an update's values, those that travel."""
        return 1.0 if self.codec != "topk" else self.fraction or FRACTION

    @property
    def holds_back(self) -> bool:
        """A site keeps what the codec did not send, and adds it to its next update."""
        return self.codec == "topk"

    @property
    def packs_updates(self) -> bool:
        """Updates travel as bytes of a codec."""
        return self.codec != "float32" or self.compress != "none"

    @property
    def packs_models(self) -> bool:
        """Models travel as bytes of a codec."""
        return self.down != "float32" or self.compress != "none"
