"""Federated least squares in numpy: small enough for a second, exact enough to compare bits.

Every round each client takes one gradient step on its own data and the server averages. The server keeps its state in
`out`, so that it can go on after a restart; with `pace` a call takes that many seconds, so that a test can interfere.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
forking = ClientApp()  # does its arithmetic in forked processes, as a DataLoader with workers does its loading
server = ServerApp()


def data_of(partition: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(partition)
    features = generator.standard_normal((20, 3))
    return features, features @ np.array([1.0, -2.0, 3.0])


def step(weights: np.ndarray, partition: int) -> np.ndarray:
    features, targets = data_of(partition)
    return weights - 0.1 * features.T @ (features @ weights - targets) / len(targets)


@client.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    time.sleep(float(context.run_config["pace"]))
    weights = step(message.content["w"]["w"].numpy(), partition)
    with (Path(str(context.run_config["out"])) / f"calls-{partition}").open("a") as calls:
        calls.write(f"{message.metadata.group_id} {os.getpid()}\n")
    return Message(RecordDict({"w": ArrayRecord({str(partition): Array(weights)})}), reply_to=message)


@forking.train()
def train_in_a_fork(message: Message, context: Context) -> Message:
    arguments = (message.content["w"]["w"].numpy(), int(context.node_config["partition-id"]))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        weights = pool.starmap(step, [arguments, arguments])[1]
    return Message(RecordDict({"w": ArrayRecord({str(arguments[1]): Array(weights)})}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    out = Path(str(context.run_config["out"]))
    state_file = out / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else {"round": 0, "w": [0.0, 0.0, 0.0]}
    count = int(context.run_config["clients"])
    while len(list(grid.get_node_ids())) < count:
        time.sleep(0.02)
    while state["round"] < int(context.run_config["rounds"]):
        record = RecordDict({"w": ArrayRecord({"w": Array(np.array(state["w"]))})})
        group = str(state["round"] + 1)
        replies = grid.send_and_receive(
            [Message(record, node, "train", group_id=group) for node in grid.get_node_ids()]
        )
        if failed := [reply.error.reason for reply in replies if reply.has_error()]:
            raise RuntimeError(f"round {group}: {failed[0]}")
        updates = {key: array for reply in replies for key, array in reply.content["w"].items()}
        assert len(updates) == count
        mean = np.mean([updates[key].numpy() for key in sorted(updates)], axis=0)
        state = {"round": state["round"] + 1, "w": mean.tolist()}
        temporary = state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(state_file)


def reference(rounds: int, clients: int) -> list[float]:
    """The same federation without any of this."""
    weights = np.zeros(3)
    for _ in range(rounds):
        weights = np.mean([step(weights, partition) for partition in range(clients)], axis=0)
    return weights.tolist()
