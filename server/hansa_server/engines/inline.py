"""Engine ``inline``: the sites are called in this process, one after another.

No process is started and nothing is sent, so a cheap model's round costs its training and little else; a model that
takes seconds to train is better off on engine ``local``, which has a process for each core. The bytes are the same,
gate, training and release are the sites' own, and so is the result, bit for bit.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from hansa_common.errors import MessageError, StudyInterrupted
from hansa_common.messages import Envelope, Message, decode, encode
from hansa_common.metrics import CountsKind
from hansa_server.exchange import Answer, Deadline

Site = Callable[[Envelope], Envelope]
"""A site that remembers: a task's bytes to its reply's."""


class InlineExchange:
    """An ``Exchange`` of function calls.

    Args:
        sites: By node.
        stop: Set by whoever wants the study to stop; looked at before each task.
    """

    def __init__(self, sites: Mapping[int, Site], stop: threading.Event) -> None:
        self.names: Mapping[int, str] = {}
        self.bytes_up = 0
        self.bytes_down = 0
        self._sites = dict(sites)
        self._stop = stop

    def nodes(self) -> list[int]:
        """Return the nodes, ascending."""
        return sorted(self._sites)

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        """See ``Exchange.ask``; a site that has begun is waited for."""
        envelopes: dict[int, Envelope] = {}
        for _node, message in requests:
            if id(message) not in envelopes:
                envelopes[id(message)] = encode(message)
            self.bytes_down += envelopes[id(message)].num_bytes
        for node, message in requests:
            if self._stop.is_set():
                raise StudyInterrupted("The study was stopped by its operator.")
            if not deadline.left:
                return
            yield self._take(node, self._sites[node](envelopes[id(message)]), kind)

    def _take(self, node: int, reply: Envelope, kind: CountsKind) -> Answer:
        self.bytes_up += reply.num_bytes
        try:
            return Answer(node=node, message=decode(reply, kind=kind), num_bytes=reply.num_bytes)
        except MessageError as error:
            return Answer(node=node, failure=f"It sent bytes that are no valid message: {error}")
