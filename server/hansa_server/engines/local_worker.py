"""A worker process of engine ``local``: keeps a ClientApp loaded and runs it on the tasks it is sent.

Started by ``local.py`` as ``python -m hansa_server.engines.local_worker DESCRIPTOR MODULE:ATTRIBUTE FOLDER``. It lives
as long as the process that started it.
"""

import logging
import os
import socket
import sys
import threading
import time
from typing import NoReturn

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.common.serde import context_from_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from hansa_server.engines.frames import (
    Frame,
    Kind,
    bare_message,
    flatten,
    join,
    metadata_of,
    part,
    receive,
    restore,
    send,
)

_PARENT_CHECK = 1.0  # seconds


def main(descriptor: int, reference: str, folder: str) -> None:
    """Serve tasks until the other end closes the channel."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    channel = socket.socket(fileno=descriptor)
    try:
        app = load_app(reference, LoadClientAppError, folder)
        content = Frame(Kind.CONTENT, b"", [])
        while True:
            frame = receive(channel)
            if frame.kind is Kind.CONTENT:
                content = frame
            else:
                _serve(channel, app, frame, content)
    except (EOFError, ConnectionError):
        return


def _die_with(parent: int) -> NoReturn:
    """End this process when its parent is gone, also in the middle of a task."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK)
    os._exit(1)


def _serve(channel: socket.socket, app: ClientApp, frame: Frame, content: Frame) -> None:
    try:
        reply, context = _run(app, frame, content)
    except Exception as error:
        logging.getLogger(__name__).exception("The ClientApp failed.")
        send(channel, Kind.ERROR, f"Its ClientApp raised {type(error).__name__}: {error}".encode()[:2000])
        return
    body, buffers = flatten(reply.content) if reply.has_content() else (b"", [])
    state, state_buffers = flatten(context.state)
    send(channel, Kind.REPLY, join([metadata_of(reply), body, state]), [*buffers, *state_buffers])


def _run(app: ClientApp, frame: Frame, content: Frame) -> tuple[Message, Context]:
    metadata, context_bytes, state = part(frame.body)
    message = bare_message(metadata)
    message.content = restore(content.body, iter(content.buffers))  # anew for each task: an app may change its records
    context = context_from_proto(ProtoContext.FromString(context_bytes))
    context.state = restore(state, iter(frame.buffers))
    TaskIdentity.task_id = message.metadata.dst_task_id or 1
    TaskIdentity.run_id, TaskIdentity.node_id = context.run_id, context.node_id
    return app(message=message, context=context), context


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # nothing is left to do, and to unload torch takes half a second
