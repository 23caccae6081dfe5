"""Watches which updates a server uses, and what it tells the clients about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from flwr.app import Context, Message

from amgt_fed.flower.records import unpack
from amgt_fed.wire.v1 import update_pb2 as pb
from clients.app import app


@dataclass
class UsedOnce:
    """Put `client` in the way of every training message; after the run `used` holds (client, round) of each update."""

    used: list[tuple[int, int]] = field(default_factory=list)
    steps: list[dict[int, int]] = field(default_factory=list)
    sent_bytes: int = 0
    received_bytes: int = 0

    def watch(self, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        """Note what every step of the server in `module` is made of."""
        import importlib

        place = importlib.import_module(module)
        original = place.server_round

        def stepping(aggregate: Any, state: Any, *others: Any, **named: Any) -> Any:
            made = {client: aggregate.rounds.get(client, state.round) for client in aggregate.participants}
            self.used += made.items()
            self.steps.append({client: state.round - round for client, round in made.items()})
            return original(aggregate, state, *others, **named)

        monkeypatch.setattr(place, "server_round", stepping)

    def client(self, message: Message, context: Context) -> Message:
        """The client's app; the plan must say of its last update what became of it."""
        who = int(context.node_config["partition-id"])
        data = unpack(message.content)
        plan = pb.RoundPlan.FromString(data)
        last = max((round for client, round in self.used if client == who), default=0)
        assert plan.accepted_round == last, f"client {who} is told {plan.accepted_round}, {last} was used last"
        self.sent_bytes += len(data)
        answer = app(message, context)
        self.received_bytes += len(unpack(answer.content))
        return answer
