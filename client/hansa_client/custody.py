"""What a real site keeps between the tasks of a study: its part in secure aggregation, its ledger, its own figures.

``masking/<plan digest>/`` in the site's folder holds the key for the study, what was signed and used, and the last
announcement; ``state/<plan digest>/`` what a study needs from round to round; ``figures/<plan digest>.json`` what this
site's own data said of each model. The secrets of a round are in the process's memory only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import ValidationError

from hansa_client.folder import SiteFolder
from hansa_client.keeping import take_files
from hansa_client.masking import Masking
from hansa_client.own_figures import keep
from hansa_client.settings import SiteSettings
from hansa_client.site_state import StateFolder
from hansa_client.spending import Spending
from hansa_common.errors import StorageError
from hansa_common.files import read_secret, storage, write_secret, write_whole
from hansa_common.messages import EvaluateTask, TrainTask
from hansa_common.metrics import Counts
from hansa_common.plan import StudyPlan
from hansa_common.protection import terms_of
from hansa_common.secagg import SiteMemory
from hansa_common.wire.protocol import TaskId

_RESTORE = "Restore the site's folder from a backup; the study key must then be made anew: delete this study's folder."


class SiteCustody:
    """Keeps what a site must remember, on its own disk.

    Args:
        folder: The site's.
        settings: The operator's.
        head: Returns the head of the site's record.
    """

    def __init__(self, folder: SiteFolder, settings: SiteSettings, *, head: Callable[[], str]) -> None:
        self._folder = folder
        self._settings = settings
        self._head = head
        self._spending = Spending(folder.path / "ledger", settings)
        self._maskings: dict[str, Masking] = {}

    @property
    def shows_figures(self) -> bool:
        """The site's policy lets its own figures out beside the masked ones."""
        return self._settings.policy.site_figures

    def masking(self, plan: StudyPlan) -> Masking:
        """Return this site's part in the secure aggregation of a study; made once while the process lives.

        Raises:
            KeyRefused: The roster has another key for this site than it has itself.
            StorageError: What was kept cannot be read back.
        """
        digest = plan.digest()
        if digest not in self._maskings:
            assert plan.federation is not None
            kept = KeptMasking(self._folder.path / "masking" / digest)
            sites = plan.federation.sites
            self._maskings[digest] = Masking(
                terms=terms_of(plan, sites),
                site=self._folder.membership().site,
                signing=self._folder.keys().signing,
                study_key=kept.study_key(),
                enrolled=lambda: self._enrolled(sites),
                keeper=kept,
                minimum=self._settings.policy.minimum_sites,
                head=lambda: bytes.fromhex(self._head()),
            )
        return self._maskings[digest]

    def _enrolled(self, sites: tuple[str, ...]) -> Mapping[str, str]:
        roster = self._folder.roster().roster
        bindings = {site: roster.member(site) for site in sites}
        return {site: binding.keys.signing for site, binding in bindings.items() if binding is not None}

    def states(self, plan: StudyPlan) -> StateFolder:
        """Return where this site keeps what a study needs from round to round.

        Raises:
            StorageError: The folder cannot be made.
        """
        return StateFolder(self._folder.path / "state" / plan.digest())

    def spend(self, plan: StudyPlan, task: TrainTask | EvaluateTask, *, name: str, parameters: int) -> None:
        """Enter in the ledger what the answer to a task will cost, before the work is done.

        Raises:
            BudgetExceeded: It would exceed the budget.
            PolicyRefused: The site has fixed no budget for the people whose data the study uses.
        """
        self._spending.charge(plan, task, name=name, parameters=parameters)

    def keep_figures(self, plan: StudyPlan, round_number: int, counts: Mapping[str, Counts]) -> None:
        """Keep this site's own figures, which the coordinator need not know.

        Raises:
            StorageError: The disk is full or fails.
        """
        keep(self._folder.path, plan, round_number, counts)

    def keep_explanations(self, plan: StudyPlan, task: str) -> None:
        """Keep what the work wrote about single examples, in ``models/<study>/explanations``.

        Raises:
            StorageError: The disk is full or fails.
        """
        place, study = ("explanations", plan.digest()), TaskId.parse(task).study
        take_files(self._folder.path / "scratch", place, self._folder.path / "models" / study / "explanations")


class KeptMasking:
    """The folder of one study's masking: a ``Keeper``.

    Args:
        path: Made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage(path, "create"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)

    def study_key(self) -> X25519PrivateKey:
        """Return the site's key for the study, made where there is none yet.

        Raises:
            StorageError: It cannot be read or written.
            IdentityError: Others can read it.
        """
        path = self._path / "study.key"
        if not path.exists():
            write_secret(path, X25519PrivateKey.generate().private_bytes_raw())
        try:
            return X25519PrivateKey.from_private_bytes(read_secret(path))
        except ValueError:
            raise StorageError(f"{path} holds no key.", advice=_RESTORE) from None

    def memory(self) -> SiteMemory:
        """See ``Keeper``."""
        path = self._path / "memory.json"
        if not path.exists():
            return SiteMemory()
        try:
            return SiteMemory.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StorageError(f"{path} cannot be read back.", advice=_RESTORE) from error

    def keep(self, memory: SiteMemory) -> None:
        """See ``Keeper``."""
        write_whole(self._path / "memory.json", memory.model_dump_json().encode(), mode=0o600)

    def announcement(self) -> bytes:
        """See ``Keeper``."""
        path = self._path / "announcement"
        with storage(path, "read"):
            return path.read_bytes() if path.exists() else b""

    def keep_announcement(self, content: bytes) -> None:
        """See ``Keeper``."""
        write_whole(self._path / "announcement", content, mode=0o600)
