"""What this site lets be done: only what it approved, looked up on its own disk before anything runs."""

from pathlib import Path
from typing import Protocol

from hansa_client.folder import SiteFolder
from hansa_common.app_plan import AppPlan, read_app_plan
from hansa_common.errors import NotApproved, TaskRefused
from hansa_common.files import write_whole
from hansa_common.messages import Envelope, RawArray
from hansa_common.wire.codec import Kind, Parcel
from hansa_common.wire.protocol import TaskNotice


class FlowerWork(Protocol):
    """Runs another app's ClientApp, confined."""

    def flower(self, reference: str, envelope: Envelope, *, timeout: float) -> Envelope:
        """Return the reply, with the node's new state beside it."""


class Gate:
    """The site's own decisions.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder

    def check(self, digest: str) -> None:
        """Return if this site approved the plan with this digest, and did not take it back.

        Raises:
            NotApproved: It did not.
        """
        if not self._folder.is_approved(digest):
            raise NotApproved(
                f"This site has not approved the plan {digest[:16]}...",
                advice="See it with 'hansa site review'; approve it with 'hansa site approve'.",
            )

    def flower(self, notice: TaskNotice, envelope: Envelope, work: FlowerWork) -> Parcel:
        """Have another Flower app's ClientApp answer, if this site approved it and lists it.

        Raises:
            TaskRefused: It is not approved, or not in site.toml.
            HansaError: It failed.
        """
        plan = self._app_plan(notice.task.study)
        self.check(plan.digest())
        if plan.client_app not in self._folder.settings().apps.values():
            raise TaskRefused(
                "The app is not one that this site lets run.",
                advice=f'Add it to [apps] in site.toml: "{plan.client_app}"',
            )
        state = self._state_path(notice.task.study)
        arrays = {"message": envelope.arrays["message"]}
        if state.exists():
            content = state.read_bytes()
            arrays["state"] = RawArray(dtype="|u1", shape=(len(content),), data=content)
        answer = work.flower(plan.client_app, Envelope(header=b"", arrays=arrays), timeout=notice.seconds)
        write_whole(state, answer.arrays["state"].data, mode=0o600)
        return Parcel(kind=Kind.FLOWER, envelope=Envelope(header=b"", arrays={"message": answer.arrays["message"]}))

    def _app_plan(self, study: str) -> AppPlan:
        plan = read_app_plan(self._folder.proposal(study).plan)
        if plan is None:
            raise TaskRefused("The study is no Flower app.")
        return plan

    def _state_path(self, study: str) -> Path:
        folder = self._folder.path / "apps"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{study}.state"
