"""Every key a run understands, with its type, range, default and meaning.

Nothing here starts anything or touches a file; `amgt_fed.config.load` reads and writes it.
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from amgt_fed.config.convergence import ConvergenceConfig
from amgt_fed.config.section import Finite, Section
from amgt_fed.config.section import Scalar as Scalar
from amgt_fed.federated.budgets import BudgetRule, LinkBudgets


class PartitionConfig(Section):
    """Which examples belong to which client."""

    scheme: Literal["dirichlet", "iid", "shards", "natural"] = Field(
        "dirichlet", description="dirichlet (label skew), iid, shards (few labels each), or natural (the task's own)"
    )
    num_clients: int = Field(20, ge=1, le=1_000_000, description="clients in the federation")
    alpha: Finite = Field(0.5, gt=0, description="Dirichlet concentration; smaller is more skewed")
    shards_per_client: int = Field(2, ge=1, description="label shards a client holds (scheme = shards)")
    min_examples: int = Field(8, ge=1, description="fewest examples a client may hold")


class FederationConfig(Section):
    """Who takes part in a round, and when a round is given up."""

    mode: Literal["sync", "async"] = Field(
        "sync", description="sync: rounds; async: a step whenever buffer_size updates are in, clients at their own pace"
    )
    clients_per_round: int = Field(10, ge=1, description="clients sampled each round")
    over_selection: Finite = Field(
        1.0, ge=1, le=100, description="sync: ask so many times clients_per_round, go on when that many have answered"
    )
    max_staleness: int = Field(
        0, ge=0, description="steps an update may come late; 0: in sync mode late updates are dropped, in async none is"
    )
    staleness_exponent: Finite = Field(
        0.5, ge=0, le=10, description="an update s steps late counts (1 + s)^-a; a is this"
    )
    buffer_size: int = Field(0, ge=0, description="async: updates in a step; 0: clients_per_round")
    concurrency: int = Field(0, ge=0, description="async: clients at work at the same time; 0: clients_per_round")
    quorum: Finite = Field(1.0, gt=0, le=1, description="share of the sampled clients a round needs to count")
    deadline_s: Finite = Field(600.0, gt=0, description="seconds after which a round goes on without the missing")
    retries: int = Field(2, ge=0, description="times a round below its quorum is tried again with other clients")
    wait_for_clients_s: Finite = Field(120.0, gt=0, description="seconds to wait for clients_per_round clients")
    evaluate: Literal["server", "clients", "none"] = Field(
        "server", description="where the global model is scored: the server's test data, the clients' own, or not"
    )
    evaluate_every: int = Field(1, ge=1, description="rounds between two evaluations; the last is always evaluated")


class ClientConfig(Section):
    """What a client does with the model it is given."""

    optimizer: Literal["amgt", "sgd", "adam", "adamw"] = Field("amgt", description="local optimizer")
    lr: Finite = Field(0.003, gt=0, description="local step size in round 1")
    lr_decay: Finite = Field(0.0, ge=0, description="across rounds: lr / (1 + lr_decay (round - 1)), eq. (10)")
    epochs: int = Field(3, ge=1, description="passes over the client's data in a round")
    steps: int = Field(0, ge=0, description="local steps in a round; 0: as many as `epochs` makes")
    threads: int = Field(1, ge=1, description="torch threads of one client; sums, and so bits, depend on it")
    batch_size: int = Field(16, ge=1, description="examples in a local step")
    momentum: Finite = Field(0.9, ge=0, lt=1, description="first-moment decay: SGD's momentum, beta1 of the others")
    beta2: Finite = Field(0.999, ge=0, lt=1, description="second-moment decay of amgt, adam, adamw")
    gamma: Finite = Field(0.1, ge=0, description="amgt: how strongly gradient noise weakens the momentum, eq. (9)")
    threshold: Finite = Field(0.0, ge=0, description="amgt: theta of the moment threshold, eq. (25); 0 is off")
    weight_decay: Finite = Field(0.0, ge=0, description="decoupled in amgt, adamw; added to the gradient in sgd, adam")
    prox_mu: Finite = Field(0.0, ge=0, description="FedProx: pull towards the round's global model")
    scaffold: bool = Field(
        False, description="SCAFFOLD: control variates against client drift; needs plain SGD steps and averaging"
    )


class ServerConfig(Section):
    """What the server does with the aggregated update."""

    optimizer: Literal["average", "momentum", "adam", "amgt"] = Field(
        "average", description="average: x - lr m; the others filter the aggregate m first"
    )
    lr: Finite = Field(1.0, gt=0, description="server step size in round 1")
    lr_decay: Finite = Field(0.0, ge=0, description="across rounds: lr / (1 + lr_decay (round - 1)), eq. (10)")
    momentum: Finite = Field(0.9, ge=0, lt=1, description="first-moment decay of momentum, adam and amgt")
    beta2: Finite = Field(0.99, ge=0, lt=1, description="second-moment decay of adam and amgt")
    clip_norm: Finite = Field(0.0, ge=0, description="largest l2 norm of one client's update; 0: not clipped")
    aggregator: str = Field(
        "mean",
        description="mean (by examples), or a rule that hostile clients cannot steer, all alike: clipped_mean, median, "
        "trimmed_mean:fraction=F, krum:malicious=N, multi_krum:malicious=N, geometric_median",
    )
    max_examples: int = Field(
        0, ge=0, lt=2**40, description="a client that claims to have trained on more is refused; 0: not looked at"
    )


class CodecConfig(Section):
    """How updates are compressed, each way."""

    uplink: str = Field(
        "amgt",
        description="codec of client updates: amgt, subspace:rank=N, or a peer (dense, topk, stc, ...), with its "
        "parameters as NAME:PARAM=VALUE",
    )
    uplink_budget: str = Field(
        "nmse=0.7",
        description="bytes=N, bits=B (per parameter), nmse=R, error=E (l2), error=C/k, auto, auto=C, or none",
    )
    downlink: str = Field(
        "amgt", description="as uplink, for the server's step; `model` sends the whole model each round"
    )
    downlink_budget: str = Field("nmse=0.7", description="as uplink_budget, for the server's step")
    error_feedback: bool = Field(True, description="carry what compression left out into the next round")

    link_budgets: str = Field(
        "", description="what single clients' links allow, e.g. 0-3:bytes=300, 7:bits=0.1; the smaller payload is sent"
    )

    @field_validator("uplink_budget", "downlink_budget")
    @classmethod
    def _budget_parses(cls, text: str) -> str:
        BudgetRule.parse(text, auto=True)
        return text

    @field_validator("link_budgets")
    @classmethod
    def _link_budgets_parse(cls, text: str) -> str:
        LinkBudgets.parse(text)
        return text


class BaselineConfig(Section):
    """Dense FedAvg (McMahan et al. 2017), run beside AMGT-Fed: same seed, rounds, clients and local work."""

    run: bool = Field(True, description="whether to run it")
    lr: Finite = Field(0.1, gt=0, description="its local SGD step size")
    momentum: Finite = Field(0.0, ge=0, lt=1, description="its local SGD momentum")


class LinkConfig(Section):
    """The AMGT link (engine grpc, and fleets)."""

    chunk_bytes: int = Field(1 << 20, ge=1024, le=4 << 20, description="largest piece of a message on the stream")
    max_message_bytes: int = Field(1 << 30, ge=1024, description="largest message accepted from a peer")
    keepalive_s: Finite = Field(20.0, gt=0, description="seconds between keepalive pings")
    grace_s: Finite = Field(
        60.0, gt=0, description="seconds a lost client may take to come back before it counts as failed"
    )


class RunConfig(Section):
    """One federated run, completely."""

    task: str = Field("digits", min_length=1, description="a built-in task, or module:Class of your own")
    engine: Literal["local", "grpc", "ray", "flower"] = Field("local", description="where the two apps run")
    rounds: int = Field(100, ge=1, le=10_000_000, description="federated rounds")
    seed: int = Field(0, ge=0, lt=2**63, description="all randomness follows from it")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:N or mps")
    workers: int = Field(0, ge=0, description="clients trained at the same time; 0: one per core")
    data_dir: str = Field("", description="directory of the larger data sets; empty: the AMGT_DATA variable")
    out: str = Field("", description="run directory; empty: runs/<task>-<time>")
    resume: bool = Field(False, description="go on from the checkpoint in `out`")
    checkpoint_every: int = Field(1, ge=1, description="rounds between checkpoints; above 1 a resumed run may differ")
    partition: PartitionConfig = PartitionConfig()
    federation: FederationConfig = FederationConfig()
    client: ClientConfig = ClientConfig()
    server: ServerConfig = ServerConfig()
    codec: CodecConfig = CodecConfig()
    convergence: ConvergenceConfig = ConvergenceConfig()
    baseline: BaselineConfig = BaselineConfig()
    link: LinkConfig = LinkConfig()
    options: dict[str, Scalar] = Field(default_factory=dict, description="passed to the task as they are")

    @field_validator("options")
    @classmethod
    def _option_names(cls, options: dict[str, Scalar]) -> dict[str, Scalar]:
        for name in options:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):  # a dot would be read as a section
                raise ValueError(f"{name!r} is no name for an option; use letters, digits, _ and -")
        return options

    @model_validator(mode="after")
    def _target_is_measured(self) -> Self:
        if self.convergence.stop_at and self.federation.evaluate == "none":
            raise ValueError(
                f"convergence.stop_at is {self.convergence.stop_at!r}, but federation.evaluate = none measures "
                "nothing; set it to server or clients"
            )
        return self

    @model_validator(mode="after")
    def _buffer_fits(self) -> Self:
        for key in ("buffer_size", "concurrency"):
            value = getattr(self.federation, key)
            if value > self.partition.num_clients:
                raise ValueError(
                    f"federation.{key} is {value}, but there are only {self.partition.num_clients} clients, and each "
                    "works on one update at a time; lower it"
                )
        return self

    @model_validator(mode="after")
    def _sample_fits(self) -> Self:
        if self.federation.clients_per_round > self.partition.num_clients:
            raise ValueError(
                f"federation.clients_per_round is {self.federation.clients_per_round}, but there are only "
                f"{self.partition.num_clients} clients; lower it, or raise partition.num_clients"
            )
        return self
