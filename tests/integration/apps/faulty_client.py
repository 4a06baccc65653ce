"""Hansa's ClientApp with faults: what a site that dies, lies or hangs looks like to the server.

``HANSA_TEST_FAULTS`` names them as ``KIND:INDEX:ROUND``; kinds are kill, nan, raise and hang.
"""

import os
import signal
import threading

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hansa_client.app import answer, envelope_from_records, envelope_to_records
from hansa_common import messages
from hansa_common.messages import TrainTask, Update
from hansa_common.metrics import ClassificationKind

app = ClientApp()


def _fault(index: int, round_number: int) -> str:
    for fault in os.environ.get("HANSA_TEST_FAULTS", "").split():
        kind, site, number = fault.split(":")
        if (int(site), int(number)) == (index, round_number):
            return kind
    return ""


@app.query()
@app.evaluate()
def honest(message: Message, context: Context) -> Message:
    return answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    task = messages.decode(envelope_from_records(message.content)).header
    assert isinstance(task, TrainTask)
    fault = _fault(int(context.node_config["partition-id"]), task.round)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "raise":
        raise ValueError("The ClientApp broke.")
    if fault == "hang":
        threading.Event().wait()
    reply = answer(message, context)
    if fault == "nan":
        update = messages.decode(envelope_from_records(reply.content), kind=ClassificationKind(classes=10))
        assert isinstance(update.header, Update)
        assert update.vector is not None
        poisoned = messages.Message(
            header=update.header, vector=np.full_like(update.vector, np.nan), counts=update.counts
        )
        return Message(envelope_to_records(messages.encode(poisoned)), reply_to=message)
    return reply
