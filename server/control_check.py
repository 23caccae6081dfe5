"""Does a client's control variate agree with the server's sum?"""

from __future__ import annotations

from amgt_fed.errors import RoundError
from amgt_fed.federated.messages import ClientUpdate
from amgt_fed.federated.state import ServerState


class ControlLost(RoundError):
    """A client's control variate is not the one the server's sum counts on: one of them went back."""

    def __init__(self, client: int, held: int, state: ServerState) -> None:
        super().__init__(client, held)
        self.client, self.held, self.state = client, held, state

    def __str__(self) -> str:
        known = self.state.record(self.client).control_round
        return f"client {self.client} holds the control variate of round {self.held}, the server's sum that of {known}"


def check_control(state: ServerState, client: int, update: ClientUpdate) -> None:
    """Refuse an update that was made against a control variate the server does not count on.

    Raises:
        ControlLost: the client is behind or ahead of the server's record.
        RoundError: it claims one in an epoch in which it was used in no round.
    """
    known = state.record(client).control_round
    if state.control is None or update.control_round == known:
        return
    if not known:
        raise RoundError(f"it claims the control variate of round {update.control_round}, and none of its was used yet")
    raise ControlLost(client, update.control_round, state)
