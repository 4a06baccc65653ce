import numpy as np

from hansa_client.leaks.canaries import plant
from hansa_client.site_data import simulated_site
from hansa_common.plan import StudyPlan


def test_canaries_are_held_out_examples_with_a_wrong_label(small_plan: StudyPlan) -> None:
    sites = [simulated_site(small_plan, index) for index in range(4)]
    planted = plant(sites, per_site=20, classes=10, seed=1)
    original = sites[0].dataset
    seen: set[int] = set()
    for site, with_canaries in zip(sites, planted, strict=True):
        data = with_canaries.site.dataset
        assert len(with_canaries.canaries) == 20
        assert not seen & set(with_canaries.canaries.tolist())
        seen |= set(with_canaries.canaries.tolist())
        apart = np.concatenate([site.splits.validation, site.splits.test])
        for position in with_canaries.canaries:
            (twin,) = [
                place for place in apart.tolist() if np.array_equal(original.features[place], data.features[position])
            ]
            assert data.labels[position] != original.labels[twin]
            assert 0 <= data.labels[position] < 10
            assert twin not in with_canaries.others
        expected = np.r_[site.splits.train, with_canaries.canaries[with_canaries.included]]
        assert with_canaries.site.splits.train.tolist() == expected.tolist()
        assert set(with_canaries.others) <= set(apart)
        assert set(with_canaries.members) == set(site.splits.train)
    coins = np.concatenate([site.included for site in planted])
    assert 20 < coins.sum() < 60  # of 80 fair coins
    assert np.array_equal(data.features[: len(original)], original.features)


def test_few_held_out_examples_give_few_canaries(small_plan: StudyPlan) -> None:
    sites = [simulated_site(small_plan, index) for index in range(4)]
    for site, planted in zip(sites, plant(sites, per_site=10_000, classes=10, seed=1), strict=True):
        apart = len(site.splits.validation) + len(site.splits.test)
        assert len(planted.canaries) == apart // 2
        assert len(planted.canaries) + len(planted.others) == apart


def test_a_seed_gives_the_same_coins_and_another_others(small_plan: StudyPlan) -> None:
    sites = [simulated_site(small_plan, index) for index in range(4)]
    first, again, other = (plant(sites, per_site=20, classes=10, seed=seed)[0].included for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
