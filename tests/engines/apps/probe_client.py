"""A ClientApp that answers with what it was given; with `fail-partition` set to its partition it raises."""

from __future__ import annotations

import importlib
import json
import os

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    if partition == context.run_config["fail-partition"]:
        raise ValueError(f"partition {partition} has no data")
    user_module = str(context.run_config["user-module"])
    answer = {
        "partition": partition,
        "num_partitions": context.node_config["num-partitions"],
        "round": message.content["question"]["round"],
        "run_config": dict(context.run_config),
        "threads": torch.get_num_threads(),
        "user_value": importlib.import_module(user_module).VALUE if user_module else None,
        "pid": os.getpid(),
    }
    return Message(RecordDict({"answer": ConfigRecord({"json": json.dumps(answer)})}), reply_to=message)
