import json
from pathlib import Path

from hansa_server.federation.events import EventLog, EventReader, show
from hansa_server.notice import Notice
from hansa_server.progress import Quiet


def test_a_notice_arrives_in_another_process_as_it_was(tmp_path: Path) -> None:
    class Listener(Quiet):
        heard: Notice | None = None

        def noticed(self, notice: Notice) -> None:
            self.heard = notice

    told = Notice(kind="diverging_site", round=3, site="Lübeck", figure=9.5, text="It runs.", advice="Look.")
    log, listener = EventLog(tmp_path), Listener()
    log.noticed(told)
    log.close()
    for event in EventReader(tmp_path).new():
        show(json.loads(json.dumps(event)), listener)
    assert listener.heard == told
