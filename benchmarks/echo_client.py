"""A ClientApp that answers Hansa's messages without a model: the initial parameters are zeros, each update is all ones.

There are as many parameters as logistic regression on the study's data would have.
"""

import functools

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hansa_client.app import envelope_from_records, envelope_to_records
from hansa_common import messages
from hansa_common.contract import feature_count
from hansa_common.messages import EvaluateTask, InitialTask, OpenTask, TrainTask, decode, encode
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import ParameterSpec, Tensor, Vector
from hansa_common.plan import StudyPlan, plan_from_json

EXAMPLES = 100  # that each site says it trains on

app = ClientApp()


@app.query()
@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Decode, answer, encode: what ``hansa_client.app`` does, without a session behind it."""
    task = decode(envelope_from_records(message.content))
    if isinstance(task.header, OpenTask):
        context.state["plan"] = ConfigRecord({"json": task.header.plan})
    record = context.state["plan"]
    assert isinstance(record, ConfigRecord)
    reply = _reply(task, _parse(str(record["json"])), f"site-{context.node_config['partition-id']}")
    return Message(envelope_to_records(encode(reply)), reply_to=message)


@functools.lru_cache(maxsize=1)
def _parse(plan_json: str) -> tuple[StudyPlan, str]:
    plan = plan_from_json(plan_json)
    return plan, plan.digest()


@functools.lru_cache(maxsize=1)
def _constant(size: int, value: float) -> Vector:
    """Return a vector on one immutable byte string, which goes out without a copy."""
    return np.frombuffer(np.full(size, value, dtype="<f4").tobytes(), dtype="<f4")


@functools.lru_cache(maxsize=2)
def _right_answers(classes: int, *, histograms: bool) -> ClassificationCounts:
    """Return the counts of a model that is right about one example of each class."""
    labels = np.arange(classes)
    return ClassificationCounts.of(np.eye(classes, dtype=np.float32), labels, np.zeros(classes), histograms=histograms)


def _reply(task: messages.Message, known: tuple[StudyPlan, str], site: str) -> messages.Message:
    plan, digest = known
    classes = len(plan.data.classes)
    size = (feature_count(plan.data) + 1) * classes
    counts, test = _right_answers(classes, histograms=False), _right_answers(classes, histograms=True)
    match task.header:
        case OpenTask():
            return messages.Message(
                header=messages.Opened(
                    plan_digest=digest,
                    site=site,
                    train=EXAMPLES,
                    validation=classes,
                    test=classes,
                    class_counts=(EXAMPLES,) * classes,
                    origin="none",
                    version="0",
                    device="none",
                )
            )
        case InitialTask():
            spec = ParameterSpec(tensors=(Tensor(name="weight", shape=(size,)),))
            header = messages.Initial(plan_digest=digest, spec=spec)
            return messages.Message(header=header, vector=_constant(size, 0.0))
        case TrainTask(round=number, attempt=attempt):
            update = messages.Update(
                plan_digest=digest,
                round=number,
                attempt=attempt,
                site=site,
                num_examples=EXAMPLES,
                train_loss=0.0,
                steps=1,
                seconds=0.0,
                train_seconds=0.0,
            )
            return messages.Message(header=update, vector=_constant(size, 1.0), counts={"validation": counts})
        case EvaluateTask():
            evaluated = messages.Evaluated(plan_digest=digest, site=site, seconds=0.0)
            return messages.Message(header=evaluated, counts={"validation": counts, "test": test})
    raise ValueError(f"This site does not do '{task.header.kind}'.")
