"""``[transport]``: in how many bits updates and models travel; what it changes is the model, and never a guarantee."""

from typing import Literal

from hansa_common.settings import Strict

Codec = Literal["float32", "bf16", "int8", "int4"]


class TransportPlan(Strict):
    """How vectors travel between server and sites in the rounds; the closing exchange sends the model whole."""

    codec: Codec = "float32"
    """Of the sites' updates. ``int8`` and ``int4`` round stochastically in blocks of 256 values: right in the mean."""
    down: Literal["float32", "bf16", "int8"] = "float32"
    """Of the model that a round starts from, rounded to the nearest value: the same for all sites."""
    compress: Literal["none", "zstd"] = "none"
    """What is left of the bytes after rounding; loses nothing."""

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
    def packs_updates(self) -> bool:
        """Updates travel as bytes of a codec."""
        return self.codec != "float32" or self.compress != "none"

    @property
    def packs_models(self) -> bool:
        """Models travel as bytes of a codec."""
        return self.down != "float32" or self.compress != "none"
