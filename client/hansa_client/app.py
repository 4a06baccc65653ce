"""Flower ClientApp: decode, call, encode."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hansa_client.session import SiteState, handle
from hansa_common.errors import MessageError
from hansa_common.messages import Envelope, RawArray

_STYPE = "hansa.raw"

app = ClientApp()


@app.query()
@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Hand a task to the session and its reply back; what the site remembers stays in its Flower state."""
    state = _load_state(context)
    reply = handle(envelope_from_records(message.content), state)
    context.state["hansa"] = ConfigRecord({"plan": state.plan_json, "masks": state.masks, "folder": state.folder})
    return Message(envelope_to_records(reply), reply_to=message)


def _load_state(context: Context) -> SiteState:
    record = context.state.get("hansa")
    state = SiteState(index=int(context.node_config["partition-id"]))
    if isinstance(record, ConfigRecord):
        plan, masks, folder = record["plan"], record["masks"], record["folder"]
        assert isinstance(plan, str)
        assert isinstance(masks, bytes)
        assert isinstance(folder, str)
        state.plan_json, state.masks, state.folder = plan, masks, folder
    return state


def envelope_to_records(envelope: Envelope) -> RecordDict:
    """Put a message into Flower's records."""
    arrays = {
        name: Array(dtype=array.dtype, shape=array.shape, stype=_STYPE, data=bytes(array.data))
        for name, array in envelope.arrays.items()
    }
    return RecordDict({"header": ConfigRecord({"json": envelope.header}), "arrays": ArrayRecord(arrays)})


def envelope_from_records(records: RecordDict) -> Envelope:
    """Take a message out of Flower's records.

    Raises:
        MessageError: The records are not those of a Hansa message.
    """
    header, arrays = records.get("header"), records.get("arrays")
    if not isinstance(header, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise MessageError("The records hold no Hansa message.")
    text = header.get("json")
    if not isinstance(text, bytes) or any(array.stype != _STYPE for array in arrays.values()):
        raise MessageError("The records hold no Hansa message.")
    return Envelope(
        header=text,
        arrays={
            name: RawArray(dtype=array.dtype, shape=tuple(array.shape), data=array.data)
            for name, array in arrays.items()
        },
    )
