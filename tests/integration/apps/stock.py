"""A Flower app in the style of Flower's own quickstart; it knows nothing of Hansa."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    weights = [array + 1.0 + int(context.node_config["partition-id"]) for array in arrays.to_numpy_ndarrays()]
    calls = context.state.get("calls")
    seen = float(str(calls["n"])) if isinstance(calls, MetricRecord) else 0.0
    context.state["calls"] = MetricRecord({"n": seen + 1})
    metrics = MetricRecord({"num-examples": 1, "calls": seen + 1})
    return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 1, "loss": 0.5})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    rounds = int(context.run_config["num-server-rounds"])
    strategy = FedAvg(fraction_train=1.0, min_available_nodes=2)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(3)]), num_rounds=rounds)
    print("weights", [round(value, 9) for value in result.arrays.to_numpy_ndarrays()[0].tolist()])
    print("calls", dict(result.train_metrics_clientapp[rounds])["calls"])
