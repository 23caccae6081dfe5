"""A federation in a few lines, from a script or a notebook."""

from amgt_fed import run

result = run(rounds=15, partition={"num_clients": 8}, federation={"clients_per_round": 4}, baseline={"run": False})

print(f"accuracy {100 * result.summary.metrics['accuracy']:.1f} %")
print(f"bytes    {result.summary.uplink_bytes + result.summary.downlink_bytes:,} up and down")
print(f"report   {result.directory / 'report.html'}")
