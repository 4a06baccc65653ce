"""Secure aggregation at a simulated site: the real protocol, with keys that the simulation makes up.

Consecutive tasks of one simulated site may be done by different processes of this machine, so all that a real site
keeps in its memory and on its disk travels with the site's state. A real site never writes its secrets down.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa_client.masking import Masking
from hansa_client.simulated import count_sites
from hansa_common.messages import Message, Opened, SetupTask
from hansa_common.plan import StudyPlan
from hansa_common.protection import terms_of
from hansa_common.secagg import SiteMemory
from hansa_common.settings import Strict
from hansa_common.signing import public_hex


class _State(Strict):
    """All that one simulated site remembers."""

    signing: str
    study_key: str
    signing_keys: dict[str, str]
    study_keys: tuple[str, ...] = ()
    memory: SiteMemory = SiteMemory()
    announcement: str = ""
    secrets: str = ""


class SimulatedMasking(Masking):
    """Masks what leaves a simulated site.

    Args:
        plan: The study.
        site: This site's name.
        state: What ``state`` returned last; empty at the beginning.
    """

    def __init__(self, plan: StudyPlan, site: str, state: bytes) -> None:
        self._held = _State.model_validate_json(state) if state else _begin(site)
        signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self._held.signing))
        super().__init__(
            terms=terms_of(plan, count_sites(plan)),
            site=site,
            signing=signing,
            study_key=X25519PrivateKey.from_private_bytes(bytes.fromhex(self._held.study_key)),
            enrolled=self._enrolled_here,
            keeper=self,
        )
        self.restore_keys(self._held.study_keys)
        if self._held.secrets:
            self.session.unsafe_restore_secrets(bytes.fromhex(self._held.secrets))

    def introduce(self, header: Opened) -> Opened:
        """Return the answer to the opening exchange with both keys in it: no roster has those of a simulation."""
        own = self._held.signing_keys[header.site]
        return super().introduce(header).model_copy(update={"signing_key": own})

    def answer(self, task: Message) -> Message:
        """Do a step of the protocol; the first one brings the other simulated sites' keys."""
        if isinstance(task.header, SetupTask):
            self._held = self._held.model_copy(
                update={
                    "signing_keys": self._held.signing_keys | task.header.signing_keys,
                    "study_keys": task.header.study_keys,
                }
            )
        return super().answer(task)

    def state(self) -> bytes:
        """Return all that the next process needs."""
        secrets = self.session.unsafe_export_secrets().hex()
        return self._held.model_copy(update={"secrets": secrets}).model_dump_json().encode()

    def memory(self) -> SiteMemory:
        """See ``Keeper``."""
        return self._held.memory

    def keep(self, memory: SiteMemory) -> None:
        """See ``Keeper``."""
        self._held = self._held.model_copy(update={"memory": memory})

    def announcement(self) -> bytes:
        """See ``Keeper``."""
        return bytes.fromhex(self._held.announcement)

    def keep_announcement(self, content: bytes) -> None:
        """See ``Keeper``."""
        self._held = self._held.model_copy(update={"announcement": content.hex()})

    def _enrolled_here(self) -> Mapping[str, str]:
        return self._held.signing_keys


def _begin(site: str) -> _State:
    signing = Ed25519PrivateKey.generate()
    return _State(
        signing=signing.private_bytes_raw().hex(),
        study_key=X25519PrivateKey.generate().private_bytes_raw().hex(),
        signing_keys={site: public_hex(signing)},
    )
