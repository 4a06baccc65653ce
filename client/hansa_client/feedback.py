"""Error feedback: what a codec held back of an update is added to the site's next one.

Stich, Cordonnier, Jaggi: Sparsified SGD with Memory. NeurIPS 2018, algorithm 1; around rounds of local training instead
of single steps, and so over what quantisation took away too, as in Seide, Fu, Droppo, Li, Yu: 1-Bit Stochastic Gradient
Descent and its Application to Data-Parallel Distributed Training of Speech DNNs. Interspeech 2014. With ``m`` the
memory, ``d`` the delta and ``C`` the codec: the site sends ``C(m + d)`` and keeps ``m + d - C(m + d)``. So what was
counted and what is kept add up to all deltas of counted rounds.

The memory is state of a site by round, see ``site_state``: of a round that was never counted it is let go with the
update. It holds nothing that was not ready to leave: the work has protected its delta, and a plan that would clip it,
mask it or noise the sum on the way out does not go with such a codec.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from hansa_client.site_state import Kept, State
from hansa_common.errors import ReleaseRefused, TaskRefused
from hansa_common.messages import Message, Update
from hansa_common.parameters import Vector, is_finite
from hansa_common.plan import StudyPlan
from hansa_common.transport import received_update

MEMORY: Final = "memory"
"""Name of the memory among what a site keeps."""


def do_with_memory(plan: StudyPlan, state: State, do: Callable[[State], tuple[Message, Kept]]) -> tuple[Message, Kept]:
    """Do a task; an update goes on with what was held back before, and what will be held back now is kept.

    Args:
        plan: The study; without such a codec nothing is held back.
        state: What this site kept of the round that the task builds on.
        do: The work, which sees all of it but the memory.

    Returns:
        The reply, its update ``float32 [P]`` whole and for ``release`` to pack, and what stays here.

    Raises:
        TaskRefused: The memory is not there.
        ReleaseRefused: The update cannot be encoded, or has another size than the memory.
    """
    if not plan.transport.holds_back:
        return do(state)
    memory = _memory_of(state)
    reply, kept = do({name: vector for name, vector in state.items() if name != MEMORY})
    delta = reply.vector
    if not isinstance(reply.header, Update) or delta is None:
        return reply, kept
    if delta.dtype != np.float32 or delta.ndim != 1 or not is_finite(delta):
        return reply, kept  # release refuses it, and says why
    if memory is None:
        memory = np.zeros_like(delta)
    if memory.size != delta.size:
        raise ReleaseRefused(f"The update has {delta.size:,} values; what was held back of the last, {memory.size:,}.")
    update = memory + delta
    state = {**kept.state, MEMORY: update - received_update(plan, update)}
    return replace(reply, vector=update), replace(kept, state=state)


def _memory_of(state: Mapping[str, Vector]) -> Vector | None:
    if state and MEMORY not in state:
        raise TaskRefused("What this site kept of the round lacks what was held back of its update.")
    return state.get(MEMORY)
