from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.unit.client.site_cast import SITE, Joined, join

from hansa_client.custody import KeptMasking, SiteCustody
from hansa_client.own_figures import all_figures, load
from hansa_common.errors import KeyRefused, StorageError
from hansa_common.identity import NodeKeys
from hansa_common.metrics import ClassificationCounts
from hansa_common.plan import StudyPlan
from hansa_common.roster import Binding, SignedBinding, sign_binding
from hansa_common.secagg import SiteMemory
from hansa_common.signing import public_hex

OTHERS = ("Hospital B", "Hospital C")
Make = Callable[..., StudyPlan]


@pytest.fixture
def plan(make_plan: Make) -> StudyPlan:
    privacy = {"maximum_examples": 100, "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
    return make_plan(privacy=privacy, federation={"sites": [SITE, *OTHERS]}, replaced={"simulation": None})


def _bound(joined: Joined, site: str, keys: NodeKeys) -> SignedBinding:
    own = joined.binding().binding
    other = Binding(**(own.model_dump() | {"site": site, "keys": keys.public().model_dump()}))
    return sign_binding(other, joined.founder)


def _custody(joined: Joined) -> SiteCustody:
    return SiteCustody(joined.folder, joined.folder.settings(), head=lambda: "ab" * 32)


def test_a_study_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    kept = KeptMasking(tmp_path / "masking" / "a")
    first = kept.study_key().private_bytes_raw()
    assert KeptMasking(tmp_path / "masking" / "a").study_key().private_bytes_raw() == first
    assert KeptMasking(tmp_path / "masking" / "b").study_key().private_bytes_raw() != first
    modes = {path: path.stat().st_mode & 0o077 for path in (tmp_path / "masking").rglob("*")}
    assert set(modes.values()) == {0}


def test_what_was_signed_and_announced_comes_back_and_a_damaged_file_is_no_fresh_start(tmp_path: Path) -> None:
    kept = KeptMasking(tmp_path / "a")
    assert kept.memory() == SiteMemory()
    assert kept.announcement() == b""
    kept.keep(SiteMemory(floor=(3, 1)))
    kept.keep_announcement(b"R")
    again = KeptMasking(tmp_path / "a")
    assert (again.memory(), again.announcement()) == (SiteMemory(floor=(3, 1)), b"R")
    (tmp_path / "a" / "memory.json").write_text("{}x")
    with pytest.raises(StorageError, match="cannot be read back"):
        again.memory()


def test_the_others_are_those_of_the_sites_own_roster_as_it_is_now(tmp_path: Path, plan: StudyPlan) -> None:
    joined = join(tmp_path / "site")
    others = {name: NodeKeys.generate() for name in OTHERS}
    bindings = [joined.binding(), *(_bound(joined, name, keys) for name, keys in others.items())]
    joined.folder.accept_roster(joined.next_roster(*bindings))
    custody = _custody(joined)
    masking = custody.masking(plan)
    assert custody.masking(plan) is masking
    enrolled = masking._enrolled()
    assert enrolled == {
        SITE: public_hex(joined.folder.keys().signing),
        **{name: public_hex(keys.signing) for name, keys in others.items()},
    }
    joined.folder.accept_roster(joined.next_roster(*bindings[:2]))
    assert set(masking._enrolled()) == {SITE, "Hospital B"}


def test_a_site_that_its_own_roster_does_not_have_masks_nothing(tmp_path: Path, plan: StudyPlan) -> None:
    with pytest.raises(KeyRefused):
        _custody(join(tmp_path / "site")).masking(plan)


def test_a_sites_own_figures_lie_at_home(tmp_path: Path, plan: StudyPlan) -> None:
    joined = join(tmp_path / "site")
    custody = _custody(joined)
    probabilities = np.eye(10, dtype=np.float32)[[0, 1, 2, 3]]
    counts = ClassificationCounts.of(probabilities, np.array([0, 1, 2, 9]), np.ones(4), histograms=False)
    custody.keep_figures(plan, 0, {"validation": counts})
    custody.keep_figures(plan, 3, {"validation": counts, "test": counts})
    figures = load(joined.folder.path, plan.digest())
    assert figures is not None
    assert figures.study == plan.name
    assert {rounds: figure.accuracy for rounds, figure in figures.validation.items()} == {0: 0.75, 3: 0.75}
    assert figures.test is not None
    assert figures.test.num_examples == 4
    assert all_figures(joined.folder.path) == [figures]
    paths = list((joined.folder.path / "figures").iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in paths)
