"""How a site's state passes between the agent, which keeps it, and the worker, which uses it.

It travels beside a message, never in it: what ``decode`` accepts from the network, and what ``encode`` sends there, has
no room for it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from hansa_client.site_state import Kept, PersonalModel, State
from hansa_common.errors import MessageError
from hansa_common.messages import Envelope, RawArray
from hansa_common.parameters import ParameterSpec, Vector

_PREFIX: Final = "state/"
_PERSONAL: Final = "personal"
_MOST: Final = 16  # vectors


def with_state(envelope: Envelope, state: State, personal: Vector | None = None) -> Envelope:
    """Put a state beside a message."""
    vectors = {_PREFIX + name: vector for name, vector in state.items()}
    if personal is not None:
        vectors[_PERSONAL] = personal
    packed = {
        name: RawArray(dtype="<f4", shape=vector.shape, data=vector.astype("<f4", copy=False).tobytes())
        for name, vector in vectors.items()
    }
    return replace(envelope, arrays={**envelope.arrays, **packed})


def apart(envelope: Envelope) -> tuple[Envelope, dict[str, Vector]]:
    """Take a state, and a personal model, away from a message.

    Raises:
        MessageError: They are no such vectors.
    """
    ours = {name: array for name, array in envelope.arrays.items() if name == _PERSONAL or name.startswith(_PREFIX)}
    if len(ours) > _MOST:
        raise MessageError("More vectors are kept than any algorithm has.")
    rest = {name: array for name, array in envelope.arrays.items() if name not in ours}
    return replace(envelope, arrays=rest), {name: _vector(array) for name, array in ours.items()}


def state_of(vectors: Mapping[str, Vector]) -> State:
    """Return the state among what ``apart`` took away."""
    return {name.removeprefix(_PREFIX): vector for name, vector in vectors.items() if name != _PERSONAL}


def kept_of(head: Mapping[str, Any], vectors: Mapping[str, Vector]) -> Kept:
    """Return what a task leaves at the site, from the worker's answer.

    Raises:
        MessageError: The personal model is none.
    """
    personal = None
    if _PERSONAL in vectors:
        try:
            spec = ParameterSpec.model_validate_json(str(head.get("spec")))
        except ValueError:
            raise MessageError("The worker gave a personal model without its tensors.") from None
        if spec.size != vectors[_PERSONAL].size:
            raise MessageError("The worker gave a personal model of another size than its tensors.")
        personal = PersonalModel(spec=spec, vector=vectors[_PERSONAL])
    return Kept(state=state_of(vectors), personal=personal)


def _vector(array: RawArray) -> Vector:
    if array.dtype != "<f4" or len(array.shape) != 1 or 4 * array.shape[0] != len(array.data):
        raise MessageError("What is kept is not one-dimensional float32.")
    return np.frombuffer(array.data, dtype="<f4")
