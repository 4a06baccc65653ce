"""How an array is a sequence: ``[T, F]`` features over time, ``[T]`` one feature, or ``[T]`` token ids.

Shapes: ``T`` steps, ``F`` features of a step, ``V`` tokens of the vocabulary.
"""

from hansa_common.contract import ArrayContract
from hansa_common.models.registry import Contract

_MOST_AXES = 2


def steps_and_features(contract: Contract) -> tuple[int, int]:
    """Return ``(T, F)`` of an array ``[T, F]`` or ``[T]``."""
    shape = contract.feature_shape
    return shape[0], shape[1] if len(shape) == _MOST_AXES else 1


def check_sequence(contract: Contract, vocabulary: int | None) -> None:
    """Refuse arrays that are no sequence, and token ids that could lie outside the vocabulary.

    Raises:
        ValueError: The contract does not fit.
    """
    shape = contract.feature_shape
    if len(shape) > _MOST_AXES:
        raise ValueError(f"data.shape = {list(shape)}: allowed is [steps] or [steps, features].")
    if vocabulary is None:
        return
    if not isinstance(contract, ArrayContract) or len(shape) != 1:
        raise ValueError(f"vocabulary: token ids are an array of shape [steps]; data.shape is {list(shape)}.")
    if contract.text is not None and contract.maximum is not None and contract.maximum >= vocabulary:
        raise ValueError(
            f"vocabulary: found {vocabulary:,}; allowed is {contract.maximum + 1:.0f}, one for each token id: padding, "
            "unknown and those of data.text, or of them the ones that preprocessing.vocabulary keeps."
        )
    if contract.minimum is None or contract.minimum < 0 or contract.maximum is None or contract.maximum >= vocabulary:
        raise ValueError(
            f"vocabulary: set data.minimum = 0 and data.maximum = {vocabulary - 1}, so that no site brings an id that "
            "the model does not know."
        )
