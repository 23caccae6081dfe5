"""The AMGT link's targets, measured on loopback with real processes.

    python benchmarks/link.py [--json] [--stock] [--nodes 1000]

- round_ms: one trivial round of two clients, each in a process of its own; median of 200 after 20 to warm up.
- socket_bytes_per_message: everything TCP carried for one message or one reply beyond its payload (HTTP/2, gRPC, chunk
  headers, settling), counted by a proxy between the client and the server. The payload is the serialized Flower
  message; what Flower's own record and metadata framing adds to 1 kB of data is given beside it.
- server_rss_mib: resident memory of a server process with 1000 clients connected, each on its own TCP connection, and
  after a round with all of them.
- throughput: a message of 64 MiB down, and a reply of 64 MiB up, from push to pull.
- --stock adds Flower's own SuperLink and two SuperNodes, on the same machine in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve()
MIB = 1024 * 1024
TARGETS = {"round_ms": 50.0, "socket_bytes_per_message": 500.0, "server_rss_mib": 1024.0}


def serve(mode: str, nodes: int) -> None:
    """The server process of one measurement: prints its address, then one JSON line."""
    from flwr.app import Array, ArrayRecord, Message, RecordDict

    from amgt_fed.flower.link_grid import LinkGrid
    from amgt_fed.link import Address

    def content(size: int) -> RecordDict:
        return RecordDict({"u": ArrayRecord({"u": Array("uint8", (size,), "amgt.v1", os.urandom(size))})})

    def one_round(kind: str, payload: RecordDict) -> float:
        started = time.perf_counter()
        messages = [Message(payload, node, kind) for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages, timeout=120)
        assert len(replies) == len(messages)
        assert all(reply.has_content() for reply in replies), [r.error for r in replies if r.has_error()]
        return time.perf_counter() - started

    with LinkGrid(Address("127.0.0.1", 0), None, run_id=1, run_config={}) as grid:
        print(grid.address, flush=True)
        before = rss_mib()
        assert grid.wait_nodes(nodes, 120), f"only {len(grid.get_node_ids())} nodes came"
        result: dict[str, float]
        if mode == "round":
            times = [one_round("train.echo", content(1)) for _ in range(220)][20:]
            result = {"round_ms": 1e3 * statistics.median(times), "round_p99_ms": 1e3 * sorted(times)[-2]}
        elif mode == "framing":
            one_round("train.echo", content(1000))  # connection set-up, Hello and Welcome are over
            print("ready", flush=True)
            sys.stdin.readline()
            counted = grid.traffic().total
            for _ in range(100):
                one_round("train.echo", content(1000))
            after = grid.traffic().total
            time.sleep(0.5)  # what is still on its way through the proxy
            result = {
                "grpc_down": (after.sent_bytes - counted.sent_bytes) / 100,
                "grpc_up": (after.received_bytes - counted.received_bytes) / 100,
                "payload_down": (after.sent_payload_bytes - counted.sent_payload_bytes) / 100,
                "payload_up": (after.received_payload_bytes - counted.received_payload_bytes) / 100,
            }
        elif mode == "crowd":
            result = {"empty_rss_mib": before, "connected_rss_mib": rss_mib()}
            result["crowd_round_s"] = one_round("train.echo", content(1))
            result["server_rss_mib"] = rss_mib()
        else:
            big, small = content(64 * MIB), content(1)
            result = {
                "down_64mib_s": min(one_round("train.swallow", big) for _ in range(4)),
                "up_64mib_s": min(one_round("train.big", small) for _ in range(4)),
            }
        print(json.dumps(result), flush=True)


def join(address: str, count: int) -> None:
    """A client process with `count` nodes."""
    from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from amgt_fed.flower.client_host import ClientHost, HostedNode
    from amgt_fed.link import Address

    app = ClientApp()
    big = os.urandom(64 * MIB) if count == 1 else b""

    @app.train("echo")
    def echo(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    @app.train("swallow")
    def swallow(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    @app.train("big")
    def answer_big(message: Message, context: Context) -> Message:
        content = RecordDict({"u": ArrayRecord({"u": Array("uint8", (len(big),), "amgt.v1", big)})})
        return Message(content, reply_to=message)

    nodes = [HostedNode(f"bench-{os.getpid()}-{index}") for index in range(count)]
    ClientHost(app, Address.parse(address), None, nodes).run()


def rss_mib() -> float:
    """Resident memory of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


class CountingProxy:
    """Passes TCP bytes on and counts them."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.up = self.down = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target)
            threading.Thread(target=self._pass, args=(client, server, "up"), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, "down"), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):  # either side hangs up when its process ends
            while data := source.recv(65536):
                setattr(self, direction, getattr(self, direction) + len(data))
                sink.sendall(data)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This script in another role, ended with the block."""
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, str(HERE), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def measure(
    mode: str, clients: list[int], through: Callable[[str], str] = str, ready: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """One server and client processes hosting so many nodes each; the server's JSON line."""
    with ExitStack() as stack:
        server = stack.enter_context(process("--serve", mode, "--nodes", str(sum(clients))))
        assert server.stdout is not None
        assert server.stdin is not None
        address = through(server.stdout.readline().strip())
        for count in clients:
            stack.enter_context(process("--join", address, "--nodes", str(count)))
        while (line := server.stdout.readline().strip()) == "ready":
            ready()
            server.stdin.write("go\n")
            server.stdin.flush()
        assert line, f"the server of {mode!r} died"
        result: dict[str, float] = json.loads(line)
        return result


def framing() -> dict[str, float]:
    """Socket bytes beyond the payload, for one message and one reply of 1 kB."""
    proxies: list[CountingProxy] = []
    start: list[tuple[int, int]] = []

    def through(address: str) -> str:
        host, _, port = address.rpartition(":")
        proxies.append(CountingProxy((host, int(port))))
        return proxies[0].address

    counts = measure("framing", [1], through, lambda: start.append((proxies[0].down, proxies[0].up)))
    down = (proxies[0].down - start[0][0]) / 100
    up = (proxies[0].up - start[0][1]) / 100
    return {
        "socket_bytes_down": down - counts["payload_down"],
        "socket_bytes_up": up - counts["payload_up"],
        # A message and its reply, settling and flow control included, shared out between the two.
        "socket_bytes_per_message": (down + up - counts["payload_down"] - counts["payload_up"]) / 2,
        "counted_share": (counts["grpc_down"] + counts["grpc_up"]) / (down + up),
        "flower_bytes_per_message": (counts["payload_down"] + counts["payload_up"]) / 2 - 1000,
    }


def stock() -> dict[str, float]:
    """Seconds per trivial round of two clients on Flower's SuperLink and SuperNodes."""
    from amgt_fed.engines.flower import run_flower
    from amgt_fed.engines.job import Job

    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "stock_bench_app.py"
        app.write_text(
            "import json, time\n"
            "from pathlib import Path\n"
            "from flwr.app import Message, RecordDict\n"
            "from flwr.clientapp import ClientApp\n"
            "from flwr.serverapp import ServerApp\n"
            "client = ClientApp()\n"  # plain assignments: Flower looks for them in the source text
            "server = ServerApp()\n"
            "@client.train()\n"
            "def train(message, context):\n"
            "    return Message(message.content, reply_to=message)\n"
            "@server.main()\n"
            "def main(grid, context):\n"
            "    nodes, times = list(grid.get_node_ids()), []\n"
            "    for _ in range(4):\n"
            "        started = time.perf_counter()\n"
            "        replies = list(grid.send_and_receive([Message(RecordDict(), n, 'train') for n in nodes]))\n"
            "        assert len(replies) == 2\n"
            "        times.append(time.perf_counter() - started)\n"
            "    Path(context.run_config['result']).write_text(json.dumps(sorted(times)[1:3]))\n"
        )
        result = Path(folder) / "times.json"
        environment = {"PYTHONPATH": folder}
        run_flower(
            Job(
                {"result": str(result)},
                2,
                Path(folder) / "run",
                "stock_bench_app:server",
                "stock_bench_app:client",
                environment=environment,
            )
        )
        return {"stock_round_ms": 1e3 * statistics.mean(json.loads(result.read_text()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--stock", action="store_true", help="measure Flower's SuperLink as well (about a minute)")
    parser.add_argument("--nodes", type=int, default=1000, help="connected clients for the memory figure")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--join", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.nodes)
        return
    if arguments.join:
        join(arguments.join, arguments.nodes)
        return
    results = {**measure("round", [1, 1]), **framing()}
    crowd = [100] * (arguments.nodes // 100) + [arguments.nodes % 100] * bool(arguments.nodes % 100)
    results |= {**measure("crowd", crowd), "crowd_nodes": arguments.nodes, **measure("throughput", [1])}
    results |= {f"{way}_mib_per_s": 64 / results[f"{way}_64mib_s"] for way in ("down", "up")}
    if arguments.stock:
        results |= stock()
        results["stock_round_ratio"] = results["stock_round_ms"] / results["round_ms"]
    results = {name: round(value, 4) for name, value in results.items()}
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for name, value in results.items():
        target = f"   target < {TARGETS[name]:g}" if name in TARGETS else ""
        print(f"{name:26} {value:12.3f}{target}")


if __name__ == "__main__":
    main()
