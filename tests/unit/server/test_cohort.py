from hansa_server.cohort import choose

SITES = [f"site-{number:02d}" for number in range(20)]


def test_all_sites_in_ascending_order() -> None:
    assert choose(SITES[::-1], size=None, seed=1, round_number=1) == tuple(SITES)
    assert choose(SITES, size=99, seed=1, round_number=1) == tuple(SITES)


def test_a_draw_depends_on_seed_and_round_only() -> None:
    first = choose(SITES, size=5, seed=1, round_number=3)
    assert first == choose(SITES[::-1], size=5, seed=1, round_number=3)
    assert first == tuple(sorted(set(first)))
    assert len(first) == 5
    assert first != choose(SITES, size=5, seed=1, round_number=4)
    assert first != choose(SITES, size=5, seed=2, round_number=3)


def test_every_site_gets_its_turn() -> None:
    drawn = [site for number in range(200) for site in choose(SITES, size=5, seed=1, round_number=number)]
    share = [drawn.count(site) / 200 for site in SITES]
    assert min(share) > 0.12
    assert max(share) < 0.38
