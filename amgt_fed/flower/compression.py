"""The server's half: any aggregating Flower strategy, with compressed messages to and from its clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from amgt_fed.codec import Codec
from amgt_fed.errors import ConfigError
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.flower.compression_broadcast import Broadcast
from amgt_fed.flower.compression_client import EXACT, codec_for, matcher
from amgt_fed.flower.compression_exchange import Exchange
from amgt_fed.flower.compression_traffic import Traffic
from amgt_fed.flower.compression_values import like

__all__ = ["CompressedStrategy"]

log = logging.getLogger("flwr.amgt_fed")


class CompressedStrategy(Strategy):
    """Wrap a strategy so that models and updates travel compressed; clients need `compression_mod`.

    The inner strategy and its `evaluate_fn` see ordinary ArrayRecords: the exact model, and for each client the exact
    model minus the client's decoded update. Clients get steps towards the model and all hold the same bits, which a
    hash checks; one that lost its state, came late or has other bits is sent what it lacks within the same round.

    Bytes and errors of each round are in the strategy's metrics (names beginning with `amgt-`) and in `traffic`.

    Args:
        inner: e.g. `FedAvg(...)`, of flwr.serverapp.strategy.
        budget: of a step of the model, as in `compression_mod`; k of error=C/k is the server round.
        codec: a name, or a codec.
        initial: budget of the initial model's matrices, each at its own scale; `start` begins with what that leaves
            of them. none: the initial model is sent as it is.
        exact: patterns of the names of arrays that are sent bit for bit.

    Raises:
        ConfigError: `inner` is no strategy of Flower's message API, or a budget cannot be read.
        CodecError: there is no such codec.

    Source: ALGORITHM section 4, the server; its residual is the distance between the two models.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        budget: str = "nmse=0.3",
        codec: str | Codec = "amgt",
        initial: str = "nmse=0.001",
        exact: Sequence[str] = EXACT,
    ) -> None:
        if not isinstance(inner, Strategy):
            raise ConfigError(f"inner strategy is {inner!r}; give an instance of a class of flwr.serverapp.strategy")
        if isinstance(inner, CompressedStrategy):
            raise ConfigError("inner strategy is a CompressedStrategy; once is enough")
        self._inner = inner
        self._codec = codec_for(codec)
        self._budget = BudgetRule.parse(budget)
        self._initial = BudgetRule.parse(initial)
        self._is_exact = matcher(exact)
        self._texts = (budget, initial)
        self._timeout = 3600.0
        self._reset()

    def _reset(self) -> None:
        self._broadcast = Broadcast(self._codec, self._budget, self._is_exact)
        self._exchange = Exchange(self._broadcast, lambda content: _weight(content, self._inner))
        self._model = ArrayRecord()

    @property
    def inner(self) -> Strategy:
        """The strategy wrapped."""
        return self._inner

    @property
    def traffic(self) -> tuple[Traffic, ...]:
        """Bytes and errors of the rounds so far."""
        return tuple(self._exchange.traffic)

    def summary(self) -> None:
        """Log the inner strategy's summary, and what is added to it."""
        self._inner.summary()
        log.info("\t└──> Compressed by %s: steps %s, initial model %s", self._codec.name, *self._texts)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        **others: Any,
    ) -> Result:
        """Run the inner strategy's own `start` with compressed messages; see Flower's `Strategy.start`.

        Args:
            others: further arguments that the inner strategy's `start` has.

        Raises:
            RoundError: the model is not finite.
            ImpossibleBudget: a budget is too small for the model.
        """
        self._reset()
        self._timeout = timeout
        first = initial_arrays
        if self._initial.kind != "none":
            first = self._broadcast.begin(initial_arrays, self._initial)
        keywords: dict[str, Any] = {
            "num_rounds": num_rounds,
            "timeout": timeout,
            "train_config": train_config,
            "evaluate_config": evaluate_config,
            "evaluate_fn": evaluate_fn,
        }
        return self._disguised().start(grid, first, **keywords, **others)

    def _disguised(self) -> Strategy:
        """The inner strategy, sharing all of its attributes, with our methods in the round.

        So a `start` that the inner strategy overrides (to keep the best model, to write logs) is the one that runs.
        """
        outer = self
        kind = type(self._inner)

        def delegate(name: str) -> Callable[..., Any]:
            return lambda _self, *positional, **keywords: getattr(outer, name)(*positional, **keywords)

        hooks = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary")
        disguise = type(f"Compressed{kind.__name__}", (kind,), {name: delegate(name) for name in hooks})
        instance: Any = object.__new__(disguise)
        instance.__dict__ = self._inner.__dict__
        return cast("Strategy", instance)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, with the model compressed."""
        self._model = arrays
        messages = self._inner.configure_train(server_round, arrays, config, grid)
        return self._exchange.send(messages, arrays, server_round, grid, self._timeout)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same for evaluation."""
        messages = self._inner.configure_evaluate(server_round, arrays, config, grid)
        return self._exchange.send(messages, arrays, server_round, grid, self._timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the inner strategy makes of the decoded replies; its arrays keep the model's number types."""
        arrays, metrics = self._inner.aggregate_train(server_round, self._exchange.receive(replies))
        if arrays is not None:
            arrays = like(arrays, self._model)
        return arrays, self._measured(metrics, training=True)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """What the inner strategy makes of the replies."""
        metrics = self._inner.aggregate_evaluate(server_round, self._exchange.receive(replies))
        return self._measured(metrics, training=False) if self._exchange.is_waiting else metrics

    def _measured(self, metrics: MetricRecord | None, *, training: bool) -> MetricRecord:
        found = self._exchange.traffic[-1].metrics(training=training)
        log.info(
            "\t└──> compressed: up %s of %s bytes, down %s of %s",
            *(f"{found[f'amgt-{name}-bytes']:,}" for name in ("uplink", "dense-uplink", "downlink", "dense-downlink")),
        )
        return MetricRecord({**({} if metrics is None else metrics), **found})


def _weight(content: RecordDict, inner: Strategy) -> float:
    """The reply's weight in the mean, 1 where it has none."""
    key = getattr(inner, "weighted_by_key", "num-examples")
    for record in content.metric_records.values():
        value = record.get(key)
        if isinstance(value, int | float) and 0 <= value < float("inf"):
            return float(value)
    return 1.0
