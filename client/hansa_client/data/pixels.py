"""Pixels -> features of an image or array contract: padding, channels, scaling.

Shapes: ``N`` examples, ``C`` channels, ``H`` height, ``W`` width.
"""

import numpy as np
import numpy.typing as npt

from hansa_common.contract import ArrayContract, ImageContract
from hansa_common.errors import ContractViolation
from hansa_common.models.registry import Contract

Pixels = npt.NDArray[np.uint8]


def fit_pixels(
    pixels: Pixels, contract: Contract, *, origin: str, maximum: int = 255
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Return pixels in the form that the contract asks for.

    An image contract gets ``uint8 [N, H, W, C]`` in 0..255: smaller images are padded with zeros, the image in the
    centre, and a single channel is repeated. An array contract gets ``float32`` in 0..1, of shape ``[N, H * W * C]``,
    ``[N, H, W, C]`` or, with one channel, ``[N, H, W]``.

    Args:
        pixels: ``uint8 [N, H, W, C]``.
        contract: What the study asks for.
        origin: Name of the data set, for the message.
        maximum: The value that means full brightness.

    Raises:
        ContractViolation: The contract is for tables, for smaller images or for another number of values.
    """
    if isinstance(contract, ImageContract):
        return _to_image(pixels, contract, origin, maximum)
    if isinstance(contract, ArrayContract):
        return _to_array(pixels, contract, origin, maximum)
    raise ContractViolation(
        f"{origin} holds images; the study asks for data of kind '{contract.kind}'.",
        advice="Choose another data adapter.",
    )


def _to_image(pixels: Pixels, contract: ImageContract, origin: str, maximum: int) -> Pixels:
    height, width, channels = pixels.shape[1:]
    if contract.height < height or contract.width < width or channels not in (1, contract.channels):
        raise ContractViolation(
            f"{origin} holds images of {height} x {width} pixels with {channels} channel(s); the study asks for "
            f"{contract.height} x {contract.width} with {contract.channels}.",
            advice="Images are padded to a larger size and a single channel is repeated; nothing is cut off or mixed.",
        )
    if maximum != 255:  # noqa: PLR2004 the full range of uint8
        pixels = np.rint(pixels * (255.0 / maximum)).astype(np.uint8)
    top, left = (contract.height - height) // 2, (contract.width - width) // 2
    padding = ((0, 0), (top, contract.height - height - top), (left, contract.width - width - left), (0, 0))
    return np.repeat(np.pad(pixels, padding), contract.channels // channels, axis=3)


def _to_array(pixels: Pixels, contract: ArrayContract, origin: str, maximum: int) -> npt.NDArray[np.float32]:
    height, width, channels = pixels.shape[1:]
    allowed = [(height * width * channels,), (height, width, channels)]
    if channels == 1:
        allowed.append((height, width))
    if contract.shape not in allowed:
        raise ContractViolation(
            f"{origin} holds arrays of shape {' or '.join(str(list(shape)) for shape in allowed)}; the study asks for "
            f"{list(contract.shape)}.",
            advice="Correct data.shape in the plan or choose another data adapter.",
        )
    return pixels.reshape(-1, *contract.shape).astype(np.float32) / np.float32(maximum)
