"""A ServerApp that writes down what it was given and what its nodes answered; `mode` makes it fail."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
WAIT_S = 60.0


class MoonIsNotFull(RuntimeError):
    """The error that `mode = "raise"` asks for."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    out = Path(str(context.run_config["out"]))
    mode = str(context.run_config["mode"])
    if mode == "raise":
        raise MoonIsNotFull("round 1: the moon is not full;\nwait two weeks")
    if mode in ("hang", "die"):
        (out / "started").write_text(str(os.getpid()))
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    nodes = wait_for_nodes(grid, int(context.run_config["nodes"]))
    rounds = [ask_all(grid, nodes, number) for number in range(int(context.run_config["rounds"]))]
    report = {"run_config": dict(context.run_config), "rounds": rounds}
    (out / "report.json").write_text(json.dumps(report))


def wait_for_nodes(grid: Grid, count: int) -> list[int]:
    deadline = time.monotonic() + WAIT_S
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(nodes)} of {count} nodes after {WAIT_S} s")
        time.sleep(0.1)
    return nodes


def ask_all(grid: Grid, nodes: list[int], number: int) -> list[object]:
    question = RecordDict({"question": ConfigRecord({"round": number})})
    pending = set(grid.push_messages([Message(question, dst_node_id=node, message_type="train") for node in nodes]))
    answers: list[object] = []
    deadline = time.monotonic() + WAIT_S
    while pending and time.monotonic() < deadline:
        for reply in grid.pull_messages(list(pending)):
            pending.discard(reply.metadata.reply_to_message_id)
            answers.append(
                {"error": reply.error.reason} if reply.has_error() else json.loads(str(reply.content["answer"]["json"]))
            )
        time.sleep(0.05)
    return answers
