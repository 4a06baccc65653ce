"""Turns without a clock's mercy: what happens is counted, not timed."""

import asyncio

import pytest

from hansa_server.federation.turns import Turns

NEVER = 1e6  # seconds


class Transfers:
    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.under_way = 0
        self.most = 0
        self.done = 0

    async def one(self, end: asyncio.Event | None = None) -> None:
        async with self.turns.wait():
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                await (asyncio.sleep(0) if end is None else end.wait())
            finally:
                self.under_way -= 1
            self.done += 1


def test_a_few_go_at_a_time_and_all_get_through() -> None:
    async def play() -> Transfers:
        found = Transfers(Turns(at_once=3, turn=NEVER, patience=NEVER))
        await asyncio.gather(*(found.one() for _ in range(20)))
        return found

    found = asyncio.run(play())
    assert (found.most, found.done) == (3, 20)


@pytest.mark.parametrize(("turn", "patience"), [(0.0, NEVER), (NEVER, 0.001)])
def test_slow_ones_hold_nobody_up(turn: float, patience: float) -> None:
    async def play() -> Transfers:
        found, end = Transfers(Turns(at_once=2, turn=turn, patience=patience)), asyncio.Event()
        slow = [asyncio.create_task(found.one(end)) for _ in range(2)]
        await asyncio.gather(*(found.one() for _ in range(5)))
        assert found.done == 5
        end.set()
        await asyncio.gather(*slow)
        return found

    assert asyncio.run(play()).done == 7


def test_a_turn_is_given_back_once_also_by_one_that_fails_or_is_cut_off() -> None:
    async def play() -> Transfers:
        found, end = Transfers(Turns(at_once=1, turn=0.0, patience=NEVER)), asyncio.Event()
        for _ in range(3):
            slow = asyncio.create_task(found.one(end))
            for _ in range(5):  # until it is under way and its turn is over
                await asyncio.sleep(0)
            assert found.under_way == 1
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
        with pytest.raises(ZeroDivisionError):
            async with found.turns.wait():
                raise ZeroDivisionError
        found.turns = Turns(at_once=1, turn=NEVER, patience=NEVER)
        waiting = asyncio.create_task(found.one(end))
        await asyncio.sleep(0)
        behind = asyncio.create_task(found.one())
        await asyncio.sleep(0)
        behind.cancel()
        await asyncio.gather(behind, return_exceptions=True)
        end.set()
        await waiting
        await asyncio.gather(*(found.one() for _ in range(4)))
        return found

    found = asyncio.run(play())
    assert (found.most, found.done) == (1, 5)
