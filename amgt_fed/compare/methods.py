"""The methods that can be compared: named sets of configuration keys, each with its paper.

A method may only set what makes it that method (`METHOD_SECTIONS` without `WORK_KEYS`). Everything else, the clients'
data, sampling, local steps, batch size, rounds and seed, is the same for all methods of a comparison.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from amgt_fed.config import RunConfig, from_flat, merge, to_flat
from amgt_fed.config.schema import Scalar
from amgt_fed.errors import ConfigError
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.tasks import find_task

METHOD_SECTIONS = ("client", "server", "codec")
WORK_KEYS = ("client.epochs", "client.steps", "client.batch_size", "client.threads", "client.weight_decay")
METHOD_KEYS_ELSEWHERE = ("convergence.delta_c",)
ADAPTIVE_RATE = 0.003
"""Where the search for an adaptive local optimizer's rate starts if the task names none."""

_NO_CODEC: Mapping[str, Scalar] = {
    "codec.uplink": "dense",
    "codec.uplink_budget": "none",
    "codec.downlink": "model",
    "codec.downlink_budget": "none",
    "codec.error_feedback": False,
}
_FEDAVG: Mapping[str, Scalar] = {
    **_NO_CODEC,
    "client.optimizer": "sgd",
    "client.momentum": 0.0,
    "server.optimizer": "average",
    "server.lr": 1.0,
}


@dataclass(frozen=True, slots=True)
class Method:
    """One line of a comparison.

    Attributes:
        name: what `--methods` calls it.
        about: what it does, and which directions it compresses.
        paper: where it comes from.
        overrides: dotted keys, on top of `base`.
        base: "fedavg": dense FedAvg with plain SGD, whatever the task's defaults; "amgt": the task's own defaults.
        tune_server: whether its server rate is searched for beside the local one.
        budget_scale: multiplies the codec's budgets: bytes, bits, or the share of the energy that is sent.
    """

    name: str
    about: str
    paper: str = ""
    overrides: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))
    base: str = "fedavg"
    tune_server: bool = False
    budget_scale: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", self.name):
            raise ConfigError(f"method name {self.name!r} is not allowed; use letters, digits, and . _ + - inside")
        if self.base not in ("fedavg", "amgt"):
            raise ConfigError(f"method {self.name}: base is {self.base!r}; give fedavg or amgt")
        for key in self.overrides:
            if not is_method_key(key):
                raise ConfigError(
                    f"method {self.name} sets {key}, which must be the same for all methods; leave it away, or set it "
                    "for all with --set"
                )


def is_method_key(key: str) -> bool:
    """Whether a dotted key is what a method consists of, rather than the work all methods share."""
    owned = key.partition(".")[0] in METHOD_SECTIONS or key in METHOD_KEYS_ELSEWHERE
    return owned and key not in WORK_KEYS


def _peer(codec: str, *, both: bool, feedback: bool) -> dict[str, Scalar]:
    keys: dict[str, Scalar] = {"codec.uplink": codec, "codec.error_feedback": feedback}
    return {**keys, "codec.downlink": codec} if both else keys


_BUILT_IN = (
    Method("fedavg", "plain SGD, weighted mean, dense both ways", "McMahan et al. 2017, arXiv 1602.05629"),
    Method(
        "fedavgm",
        "FedAvg with momentum .9 on the server, dense",
        "Hsu et al. 2019, arXiv 1909.06335",
        {"server.optimizer": "momentum", "server.momentum": 0.9, "server.lr": 0.25},
        tune_server=True,
    ),
    Method(
        "fedprox",
        "FedAvg with a proximal term of .01 on the clients, dense",
        "Li et al. 2020, arXiv 1812.06127",
        {"client.prox_mu": 0.01},
    ),
    Method(
        "fedadam",
        "FedAvg with Adam (.9, .99, 1e-3) on the server, dense",
        "Reddi et al. 2021, arXiv 2003.00295",
        {"server.optimizer": "adam", "server.momentum": 0.9, "server.beta2": 0.99, "server.lr": 0.01},
        tune_server=True,
    ),
    Method(
        "scaffold",
        "FedAvg with control variates, dense",
        "Karimireddy et al. 2020, arXiv 1910.06378",
        {"client.scaffold": True},
    ),
    Method(
        "int8",
        "FedAvg, 8 bits per parameter with a scale per block, both ways, error feedback",
        "Dettmers 2016, arXiv 1511.04561",
        _peer("int8", both=True, feedback=True),
    ),
    Method(
        "qsgd",
        "FedAvg, 7 random levels per bucket of 512, up; the model comes down dense",
        "Alistarh et al. 2017, arXiv 1610.02132",
        _peer("qsgd", both=False, feedback=False),
    ),
    Method(
        "topk",
        "FedAvg, the largest 1 % with error feedback, up; the model comes down dense",
        "Stich et al. 2018, arXiv 1809.07599",
        _peer("topk", both=False, feedback=True),
    ),
    Method(
        "stc",
        "FedAvg, the largest 1 % as one ternary level, both ways, error feedback",
        "Sattler et al. 2019, arXiv 1903.02891",
        _peer("stc", both=True, feedback=True),
    ),
    Method(
        "stc-small",
        "the same with the largest 1/400",
        "Sattler et al. 2019, arXiv 1903.02891",
        _peer("stc:fraction=0.0025", both=True, feedback=True),
    ),
    Method(
        "eden",
        "FedAvg, 2 bits per rotated parameter, up; the model comes down dense",
        "Vargaftik et al. 2022, arXiv 2108.08842",
        _peer("eden", both=False, feedback=False),
    ),
    Method(
        "powersgd",
        "FedAvg, rank 4 by warm power iteration, both ways, error feedback",
        "Vogels et al. 2019, arXiv 1905.13727",
        _peer("powersgd", both=True, feedback=True),
    ),
    Method("amgt", "AMGT-Fed as the task's defaults set it", "docs/algorithm.md", base="amgt"),
    Method("amgt-small", "the same with half the budget", "docs/algorithm.md", base="amgt", budget_scale=0.5),
    Method(
        "amgt-sgd",
        "AMGT-Fed's codec and server with plain SGD on the clients",
        "docs/algorithm.md",
        {"client.optimizer": "sgd", "client.momentum": 0.0, "client.lr_decay": 0.0, "server.lr": 1.0},
        base="amgt",
    ),
    Method(
        "amgt-dense",
        "AMGT-Fed's optimizers, dense both ways: what compression costs",
        "docs/algorithm.md",
        _NO_CODEC,
        base="amgt",
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _BUILT_IN})


def pick_methods(names: Sequence[str], own: Mapping[str, Method] = MappingProxyType({})) -> tuple[Method, ...]:
    """The methods by name, the user's `own` before the built-in ones.

    Raises:
        ConfigError: an unknown name, or one named twice.
    """
    known = {**METHODS, **own}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"unknown method {name!r}; {hint}there are: {', '.join(known)}, and your own --methods-file"
            )
        if list(names).count(name) > 1:
            raise ConfigError(f"method {name!r} is named twice; once is enough")
    return tuple(known[name] for name in names)


def configuration(method: Method, task: str, common: Mapping[str, Scalar]) -> RunConfig:
    """The complete configuration of `method` on `task`.

    Args:
        method: whose keys go before everything else.
        task: its defaults for the shared work hold for every method, those for AMGT-Fed only for base "amgt".
        common: dotted keys the user sets for all methods.

    Raises:
        ConfigError: an unknown key or a bad value.
        TaskError: there is no such task.
    """
    defaults = find_task(task).defaults_beside({*method.overrides, *common})
    if method.base == "fedavg":
        defaults = {key: value for key, value in defaults.items() if not is_method_key(key)}
    base = from_flat({**defaults, **common, "task": task})
    if method.base == "fedavg":
        base = merge(base, {**_FEDAVG, "client.lr": base.baseline.lr})
    config = merge(base, dict(method.overrides))
    if method.budget_scale != 1.0:
        budgets = {f"codec.{way}_budget": getattr(config.codec, f"{way}_budget") for way in ("uplink", "downlink")}
        config = merge(config, {key: scaled_budget(text, method.budget_scale) for key, text in budgets.items()})
    if "client.lr" not in method.overrides:
        config = merge(config, {"client.lr": _start_rate(config, base, method)})
    return config


def _start_rate(config: RunConfig, base: RunConfig, method: Method) -> float:
    if config.client.optimizer == base.client.optimizer:
        return base.client.lr
    # Another kind of local optimizer than the base's: the base's rate is of another scale.
    return config.baseline.lr if config.client.optimizer == "sgd" else ADAPTIVE_RATE


def scaled_budget(text: str, scale: float) -> str:
    """A codec budget with `scale` times the bytes or bits; of an error budget, `scale` times what is kept.

    Raises:
        ConfigError: `text` is no budget, or one that cannot be scaled.
    """
    rule = BudgetRule.parse(text)
    amount = text.partition("=")[2]
    if rule.kind == "bytes":
        return f"bytes={max(1, round(rule.amount * scale))}"
    if rule.kind == "bits":
        return f"bits={rule.amount * scale:g}"
    if rule.kind == "nmse":
        return f"nmse={1 - (1 - rule.amount) * scale:g}"
    if rule.kind == "error":
        return f"error={rule.amount / scale:g}{'/k' if amount.endswith('/k') else ''}"
    raise ConfigError(f"budget {text!r} cannot be scaled by {scale:g}; give this task a budget in bytes, bits or nmse")


def method_keys(config: RunConfig) -> dict[str, Scalar]:
    """What of a configuration is the method's."""
    return {key: value for key, value in to_flat(config).items() if is_method_key(key)}
