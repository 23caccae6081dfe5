"""What one round of a compressed strategy cost, and how exact it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import MetricRecord, RecordDict

from amgt_fed.flower.compression_messages import Answer


@dataclass(slots=True)
class Traffic:
    """Bytes and errors of a round, training and evaluation together.

    Attributes:
        round: Flower's server round.
        uplink_bytes, downlink_bytes: of the records in all messages, names and numbers included, as Flower's
            `count_bytes` counts them.
        dense_uplink_bytes, dense_downlink_bytes: the same for the inner strategy's own messages.
        models_sent: whole models among the messages to clients.
        failures: replies with an error or nothing usable.
        update_l2: mean ||D_i||, weighted as the inner strategy weights.
        update_error_l2: delta_k, mean ||q_i - D_i||: by at most so much the mean differs from the exact one (27).
        model_error_l2: distance between the server's model and the clients' when the round's last messages were sent.
    """

    round: int
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    dense_uplink_bytes: int = 0
    dense_downlink_bytes: int = 0
    models_sent: int = 0
    failures: int = 0
    model_error_l2: float = 0.0
    _weights: float = field(default=0.0, repr=False)
    _update: float = field(default=0.0, repr=False)
    _deviation: float = field(default=0.0, repr=False)
    _reported: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def update_l2(self) -> float:
        """Weighted mean of ||D_i||; 0 where nobody sent a compressed update."""
        return self._update / self._weights if self._weights else 0.0

    @property
    def update_error_l2(self) -> float:
        """delta_k."""
        return self._deviation / self._weights if self._weights else 0.0

    def add_downlink(self, sent: int, dense: int) -> None:
        """Count a message to a client, and what it would have taken uncompressed."""
        self.downlink_bytes += sent
        self.dense_downlink_bytes += dense

    def add_uplink(self, received: int, dense: int) -> None:
        """Count a reply."""
        self.uplink_bytes += received
        self.dense_uplink_bytes += dense

    def add_norms(self, weight: float, answer: Answer) -> None:
        """Add one client's update to the means."""
        self._weights += weight
        self._update += weight * answer.update_l2
        self._deviation += weight * answer.deviation_l2

    def metrics(self, *, training: bool) -> MetricRecord:
        """What has come since the last call, under names that begin with `amgt-`; the errors after training."""
        counts = {
            "amgt-uplink-bytes": self.uplink_bytes,
            "amgt-downlink-bytes": self.downlink_bytes,
            "amgt-dense-uplink-bytes": self.dense_uplink_bytes,
            "amgt-dense-downlink-bytes": self.dense_downlink_bytes,
            "amgt-models-sent": self.models_sent,
            "amgt-failures": self.failures,
        }
        metrics = MetricRecord({name: count - self._reported.get(name, 0) for name, count in counts.items()})
        self._reported = counts
        if training:
            metrics["amgt-update-norm"] = self.update_l2
            metrics["amgt-update-error"] = self.update_error_l2
        metrics["amgt-model-error"] = self.model_error_l2
        return metrics


def content_bytes(content: RecordDict) -> int:
    """Bytes of a message's records and their names."""
    return sum(len(key) + record.count_bytes() for key, record in content.items())
