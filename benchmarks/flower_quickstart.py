"""What Hansa is compared with: a Flower app written like Flower's PyTorch quickstart, in Flower's own simulation.

Flower 1.41, examples/quickstart-pytorch: a ``DataLoader`` over float32 images ``[N, C, H, W]`` in 0..1, the usual
training loop, the updated model back; then all chosen sites evaluate the new model on their validation split. It
works on the examples of ``studies.Task`` and writes its times as JSON. It is started through ``main`` of the imported
module, so that Ray's actors import it too, as they would an installed app.
"""

import argparse
import functools
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 32
client_app = ClientApp()


def build(model: str) -> nn.Module:
    """Return the shared CNN, or logistic regression on 784 features."""
    if model == "logistic":
        return nn.Linear(784, 10)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


@functools.cache
def read(path: str) -> dict[str, npt.NDArray[Any]]:
    """Read an archive once in each process."""
    with np.load(path) as archive:
        return dict(archive.items())


def load(config: ConfigRecord, site: int, split: str) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Return one site's examples, as the quickstart does anew for each message."""
    data, positions = read(str(config["data"])), read(str(config["splits"]))[f"{split}_{site}"]
    x = torch.from_numpy(data["x"][positions])
    if x.dtype == torch.uint8:
        x = x.permute(0, 3, 1, 2).contiguous().float() / 255
    return DataLoader(TensorDataset(x, torch.from_numpy(data["y"][positions])), BATCH, shuffle=split == "train")


def prepare(message: Message, context: Context, split: str) -> tuple[nn.Module, DataLoader[tuple[torch.Tensor, ...]]]:
    """Build the model, load what came in, and load the examples."""
    config = message.content["config"]
    arrays = message.content["arrays"]
    assert isinstance(config, ConfigRecord)
    assert isinstance(arrays, ArrayRecord)
    model = build(str(config["model"]))
    model.load_state_dict(arrays.to_torch_state_dict())
    return model, load(config, int(context.node_config["partition-id"]), split)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train for one epoch."""
    model, loader = prepare(message, context, "train")
    parameters = model.parameters()
    image = isinstance(model, nn.Sequential)
    optimizer = torch.optim.Adam(parameters, lr=1e-3) if image else torch.optim.SGD(parameters, lr=0.01)
    criterion = nn.CrossEntropyLoss()
    model.train()
    running_loss = 0.0
    for features, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(features), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    metrics = MetricRecord({"train_loss": running_loss / len(loader), "num-examples": _examples(loader)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on the validation split."""
    model, loader = prepare(message, context, "validation")
    criterion = nn.CrossEntropyLoss()
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for features, labels in loader:
            outputs = model(features)
            loss += criterion(outputs, labels).item()
            correct += int((outputs.argmax(1) == labels).sum().item())
    count = _examples(loader)
    metrics = MetricRecord({"eval_loss": loss / len(loader), "eval_acc": correct / count, "num-examples": count})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _examples(loader: DataLoader[tuple[torch.Tensor, ...]]) -> int:
    assert isinstance(loader.dataset, TensorDataset)
    return len(loader.dataset)


class TimedFedAvg(FedAvg):
    """Flower's federated averaging, with the time at which each round starts and at which its training is over."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.starts: list[float] = []
        self.trained: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See Flower."""
        self.starts.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See Flower."""
        replies = list(replies)
        assert replies
        assert not any(reply.has_error() for reply in replies)
        result = super().aggregate_train(server_round, replies)
        self.trained.append(time.monotonic())
        return result


def server_app(arguments: argparse.Namespace) -> ServerApp:
    """Return the ServerApp; it writes the seconds of each round, and of its training, to ``arguments.out``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        share = arguments.per_round / arguments.sites
        options = {"min_train_nodes": arguments.per_round, "min_evaluate_nodes": arguments.per_round}
        strategy = TimedFedAvg(
            fraction_train=share, fraction_evaluate=share, min_available_nodes=arguments.sites, **options
        )
        config = {"model": arguments.model, "data": str(arguments.data), "splits": str(arguments.splits)}
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(build(arguments.model).state_dict()),
            num_rounds=arguments.rounds,
            train_config=ConfigRecord(dict(config)),
            evaluate_config=ConfigRecord(dict(config)),
        )
        ends = [*strategy.starts[1:], time.monotonic()]
        rounds = [end - start for start, end in zip(strategy.starts, ends, strict=True)]
        training = [end - start for start, end in zip(strategy.starts, strategy.trained, strict=True)]
        arguments.out.write_text(json.dumps({"rounds": rounds, "training": training}))

    return app


def main() -> None:
    """Run one simulation, one core for each actor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["cnn", "logistic"], required=True)
    for name in ("--data", "--splits", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--sites", "--per-round", "--rounds", "--cores"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_simulation(
        server_app=server_app(arguments),
        client_app=client_app,
        num_supernodes=arguments.sites,
        backend_config={
            "init_args": {"num_cpus": arguments.cores, "log_to_driver": False, "logging_level": logging.ERROR},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
