"""The worker process of a site: confined first, then it loads torch, data and model and keeps them warm.

Started by ``worker_process`` as ``python -m hansa_client.worker DESCRIPTOR FOLDER SETTINGS``. It has no key, no
certificate and no network, and ends with the agent. Code comes from what is installed; a Flower app is named, not sent.
"""

import importlib
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from hansa_client.confinement import confine
from hansa_client.worker_channel import receive, send
from hansa_client.worker_state import apart, state_of, with_state
from hansa_common.errors import HansaError, TaskRefused
from hansa_common.messages import Envelope, RawArray, decode, encode
from hansa_common.plan import plan_from_json
from hansa_common.simulation_plan import source_from_json

_log = logging.getLogger(__name__)


class Worker:
    """One study's data and model at a time.

    Args:
        folder: Where it may write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._work: Any = None

    def answer(self, head: dict[str, Any], envelope: Envelope | None) -> tuple[dict[str, Any], Envelope | None]:
        """Do what a frame asks for.

        Raises:
            HansaError: It cannot be done.
        """
        match head["do"]:
            case "open":
                return {"parameters": self._open(head)}, None
            case "task" if envelope is not None and self._work is not None:
                return self._do(envelope)
            case "flower" if envelope is not None:
                return {}, _flower(head["app"], envelope)
        raise TaskRefused("The worker has no study open.")

    def _do(self, envelope: Envelope) -> tuple[dict[str, Any], Envelope]:
        bare, vectors = apart(envelope)
        reply, kept = self._work.do_with_state(decode(bare), state_of(vectors))
        own = kept.personal
        head = {"spec": own.spec.model_dump_json()} if own is not None else {}
        return head, with_state(encode(reply), kept.state, own.vector if own is not None else None)

    def _open(self, head: dict[str, Any]) -> int:
        from hansa_client.site_data import real_site  # noqa: PLC0415 - after the confinement
        from hansa_client.work import Work, prepare_process  # noqa: PLC0415 - torch, after the confinement

        prepare_process()
        self._work = None
        plan = plan_from_json(head["plan"])
        source = source_from_json(head["source"])
        site = real_site(plan, name=head["name"], index=head["index"], source=source)
        kept = self._folder / "explanations" / plan.digest()
        self._work = Work(plan, site, head["device"], kept=kept)
        return int(self._work.parameters)


def _flower(reference: str, envelope: Envelope) -> Envelope:
    """Run another app's ClientApp on a message, with the node's state; both come and go as protobuf bytes."""
    from flwr.app import Context, RecordDict  # noqa: PLC0415 - only where another app runs
    from flwr.common.serde import (  # noqa: PLC0415
        message_from_proto,
        message_to_proto,
        recorddict_from_proto,
        recorddict_to_proto,
    )
    from flwr.proto.message_pb2 import Message as ProtoMessage  # noqa: PLC0415
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict  # noqa: PLC0415
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    module, _, attribute = reference.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    message = message_from_proto(ProtoMessage.FromString(bytes(envelope.arrays["message"].data)))
    state = RecordDict()
    if "state" in envelope.arrays:
        state = recorddict_from_proto(ProtoRecordDict.FromString(bytes(envelope.arrays["state"].data)))
    config = json.loads(envelope.header) if envelope.header else {}
    node = message.metadata.dst_node_id
    context = Context(message.metadata.run_id, node, config.get("node", {}), state, config.get("run", {}))
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, context.run_id, node
    reply = app(message, context)
    return Envelope(
        header=b"",
        arrays={
            "message": _bytes(message_to_proto(reply).SerializeToString()),
            "state": _bytes(recorddict_to_proto(context.state).SerializeToString()),
        },
    )


def _bytes(content: bytes) -> RawArray:
    return RawArray(dtype="|u1", shape=(len(content),), data=content)


def main(descriptor: int, folder: Path, settings: dict[str, Any]) -> None:
    """Serve the agent until it closes the channel."""
    confinement = confine(
        folder,
        network=settings["network"] == "none",
        file_bytes=settings["file_mb"] * 1_000_000,
        processes=settings["processes"],
        open_files=settings["files"],
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    channel = socket.socket(fileno=descriptor)
    send(channel, {"network": confinement.network, "files": confinement.files})
    if settings["warm"]:
        importlib.import_module("hansa_client.work")
    worker = Worker(folder)
    while True:
        try:
            head, envelope = receive(channel)
        except (EOFError, ConnectionError):
            return
        try:
            send(channel, *worker.answer(head, envelope))
        except HansaError as error:
            _log.warning("%s: %s", error.code, error)
            send(channel, {"error": error.code, "message": error.message, "advice": error.advice})
        except Exception as error:  # noqa: BLE001 - the agent is told, and no details
            _log.exception("unexpected failure")
            send(channel, {"error": "training", "message": f"Unexpected {type(error).__name__}.", "advice": ""})


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    os._exit(0)  # nothing is left to do, and to unload torch takes half a second
