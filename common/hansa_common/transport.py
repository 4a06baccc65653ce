"""Messages of a round in the plan's codec: packed on their way, ``float32`` for whoever trains or adds."""

from dataclasses import replace

from hansa_common.codecs import pack, unpack
from hansa_common.errors import MessageError
from hansa_common.messages import Message, TrainTask, Update
from hansa_common.parameters import Vector, l2_norm
from hansa_common.plan import StudyPlan
from hansa_common.privacy import clip_l2
from hansa_common.seeds import derive_seed
from hansa_common.transport_plan import TransportPlan

_MARGINS = tuple(1e-6 * 4.0**turn for turn in range(8))  # of a clipping bound; 1.6 % is more than any rounding


def train_task(plan: StudyPlan, header: TrainTask, parameters: Vector) -> Message:
    """Return the task of a round, its model in the plan's codec.

    Raises:
        ReleaseRefused: A parameter cannot be encoded.
    """
    transport = plan.transport
    if not transport.packs_models:
        return Message(header=header, vector=parameters)
    return Message(header=header, packed=pack_model(plan, parameters))


def pack_model(plan: StudyPlan, parameters: Vector) -> bytes:
    """Return a model's bytes, rounded to the nearest values: the same for every site."""
    return pack(parameters, plan.transport.down, compress=plan.transport.compress == "zstd", seed=None)


def received_model(plan: StudyPlan, parameters: Vector) -> Vector:
    """Return the model as a site will see it that is sent ``parameters`` in a round."""
    if not plan.transport.packs_models:
        return parameters
    compress = plan.transport.compress == "zstd"
    return unpack(pack_model(plan, parameters), plan.transport.down, compress=compress, size=parameters.size)


def received_update(plan: StudyPlan, delta: Vector) -> Vector:
    """Return an update as the server will read it, of a codec that rounds to the nearest value: ``float32 [P]``.

    Raises:
        ReleaseRefused: A value cannot be encoded.
    """
    return _unpack(plan.transport, _pack(plan.transport, delta, seed=None), size=delta.size)


def _pack(transport: TransportPlan, delta: Vector, *, seed: int | None) -> bytes:
    """Return an update's bytes."""
    compress = transport.compress == "zstd"
    return pack(delta, transport.codec, compress=compress, seed=seed, fraction=transport.sent_fraction)


def _unpack(transport: TransportPlan, packed: bytes, *, size: int) -> Vector:
    compress = transport.compress == "zstd"
    return unpack(packed, transport.codec, compress=compress, size=size, fraction=transport.sent_fraction)


def update_message(plan: StudyPlan, message: Message, *, bound: float | None) -> Message:
    """Return an update in the plan's codec, as it leaves a site.

    Stochastic rounding draws by the plan's seed, the site and the round. It can lengthen an update: one that would be
    longer than the bound is scaled before, and draws the same.

    Args:
        plan: The study.
        message: With the update as ``vector``, clipped.
        bound: Largest L2 norm of an update; ``None`` where the plan has none.

    Raises:
        ReleaseRefused: A value cannot be encoded.
    """
    transport, header, delta = plan.transport, message.header, message.vector
    if not transport.packs_updates or delta is None:
        return message
    assert isinstance(header, Update)
    seed = derive_seed(plan.seed, header.site, header.round, "codec")
    packed = _pack(transport, delta, seed=seed)
    for margin in _MARGINS:
        norm = l2_norm(_unpack(transport, packed, size=delta.size)) if bound else 0.0
        if bound is None or norm <= bound:
            break
        delta = clip_l2(delta, l2_norm(delta) * bound / norm * (1.0 - margin)).vector
        packed = _pack(transport, delta, seed=seed)
    return replace(message, vector=None, packed=packed)


def unpacked(plan: StudyPlan, message: Message, *, size: int) -> Message:
    """Return a message of a round with its vector as ``float32 [P]``.

    Args:
        plan: The study, whose codec it must be in.
        message: A task or an update that came in; another is returned as it is.
        size: ``P``.

    Raises:
        MessageError: The vector is in another codec than the plan's, or of another size.
    """
    transport, header = plan.transport, message.header
    if not isinstance(header, TrainTask | Update):
        return message
    packs = transport.packs_updates if isinstance(header, Update) else transport.packs_models
    if packs != bool(message.packed):
        raise MessageError("The vector is not in the codec that the plan says.")
    if not packs:
        return message
    if isinstance(header, Update):
        vector = _unpack(transport, message.packed, size=size)
    else:
        vector = unpack(message.packed, transport.down, compress=transport.compress == "zstd", size=size)
    return replace(message, vector=vector, packed=b"")
