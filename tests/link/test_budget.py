from __future__ import annotations

import asyncio
import threading

import pytest

from amgt_fed.errors import LinkError
from amgt_fed.link.budget import ReceiveBudget, SendBudget


def test_reservations_are_granted_in_order_and_a_small_one_does_not_overtake() -> None:
    async def scenario() -> list[str]:
        budget, order = ReceiveBudget(10), []

        async def reserve(name: str, size: int) -> None:
            await budget.reserve(size)
            order.append(name)

        await reserve("first", 8)
        tasks = [asyncio.create_task(reserve("large", 6)), asyncio.create_task(reserve("small", 1))]
        await asyncio.sleep(0)
        assert order == ["first"]
        budget.release(8)
        await asyncio.gather(*tasks)
        assert budget.free == 3
        return order

    assert asyncio.run(scenario()) == ["first", "large", "small"]


def test_who_is_cancelled_while_waiting_takes_nothing() -> None:
    async def scenario() -> int:
        budget = ReceiveBudget(10)
        await budget.reserve(10)
        waiting = asyncio.create_task(budget.reserve(5))
        granted_too_late = asyncio.create_task(budget.reserve(5))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        budget.release(10)  # grants the second, which is cancelled before it runs
        granted_too_late.cancel()
        await asyncio.gather(waiting, granted_too_late, return_exceptions=True)
        return budget.free

    assert asyncio.run(scenario()) == 10


def test_sending_waits_for_room_and_says_so_when_there_is_none() -> None:
    budget = SendBudget(10)
    budget.reserve(100, 1.0)  # alone, even what is larger than everything goes
    with pytest.raises(LinkError, match=r"100 bytes of messages have had no answer for 0\.01 s, so 1 more"):
        budget.reserve(1, 0.01)
    threading.Timer(0.05, budget.release, [100]).start()
    budget.reserve(4, 10.0)
    budget.reserve(6, 0.01)
