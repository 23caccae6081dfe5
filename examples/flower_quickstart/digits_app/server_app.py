"""The ServerApp of Flower's quickstart; the wrapped strategy is the one line that is new."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from amgt_fed.flower import CompressedStrategy
from digits_app.task import Net, load_centralized_dataset, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(context.run_config["seed"])
    strategy = FedAvg(fraction_evaluate=context.run_config["fraction-evaluate"])
    if context.run_config["compress"]:
        strategy = CompressedStrategy(strategy)  # the line that is new
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=global_evaluate,
    )
    last = max(result.evaluate_metrics_serverapp)
    print(f"accuracy {100 * result.evaluate_metrics_serverapp[last]['accuracy']:.2f} %")


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    loss, accuracy = test(model, load_centralized_dataset())
    return MetricRecord({"accuracy": accuracy, "loss": loss})
