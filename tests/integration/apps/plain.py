"""ClientApps that show how engine ``local`` treats any Flower app."""

import os
import signal
import threading

from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    config = message.content["do"]
    assert isinstance(config, ConfigRecord)
    match config["what"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "raise":
            raise ValueError("broken")
        case "raise a lot":
            raise ValueError("\u574f" * 3000)
        case "large":
            data = b"x" * (8 << 20)
            array = Array("uint8", (len(data),), "raw", data)
            return Message(RecordDict({"reply": ArrayRecord({"data": array})}), reply_to=message)
        case "hang":
            threading.Event().wait()
    seen = context.state.get("seen")
    count = int(str(seen["count"])) + 1 if isinstance(seen, ConfigRecord) else 1
    context.state["seen"] = ConfigRecord({"count": count})
    message.content["do"] = ConfigRecord({"what": "changed by the app"})
    reply: dict[str, ConfigRecordValues] = {
        "pid": os.getpid(),
        "count": count,
        "node": context.node_id,
        "partition": context.node_config["partition-id"],
        "run": str(context.run_config),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    return Message(RecordDict({"reply": ConfigRecord(reply)}), reply_to=message)
