"""What the Grids of Hansa's own engines have in common: Flower's contract where nothing is sent."""

import uuid
from abc import ABC
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_SERVER_NODE = 1  # Flower's id of the node that a ServerApp runs on


class OwnGrid(Grid, ABC):
    """A Flower Grid with a run and nodes of its own.

    Args:
        nodes: Their ids.
    """

    takes_views = True
    """An array's bytes may be a view of a mapped file; Flower's own grids want ``bytes``."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self._run = Run.create_empty(run_id=uuid.uuid4().int >> 65)
        self._node_ids = tuple(nodes)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self._run.run_id, _SERVER_NODE

    def set_run(self, run: Run) -> None:
        """See Flower's Grid."""
        self._run = run

    @property
    def run(self) -> Run:
        """See Flower's Grid."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See Flower's Grid."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See Flower's Grid."""
        return list(self._node_ids)
