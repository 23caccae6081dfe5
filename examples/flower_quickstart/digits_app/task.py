"""The model, the data and the loops: nothing here knows of Flower or of compression."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A small CNN with batch normalisation: 151,690 parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(images)))
        hidden = nn.functional.max_pool2d(torch.relu(self.bn2(self.conv2(hidden))), 2)
        return self.fc2(torch.relu(self.fc1(hidden.flatten(1))))


def _digits() -> tuple[TensorDataset, TensorDataset]:
    """1,438 images for training and 359 for testing, the same split everywhere."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1797).permutation(len(labels))
    pixels = torch.tensor(images[order] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    classes = torch.tensor(labels[order])
    return TensorDataset(pixels[359:], classes[359:]), TensorDataset(pixels[:359], classes[:359])


def load_data(partition_id: int, num_partitions: int, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """One client's share: four fifths for training, one fifth for validation."""
    images, labels = _digits()[0].tensors
    images, labels = images[partition_id::num_partitions], labels[partition_id::num_partitions]
    cut = len(labels) - len(labels) // 5
    shuffled = torch.Generator().manual_seed(partition_id)
    train_set, validation_set = TensorDataset(images[:cut], labels[:cut]), TensorDataset(images[cut:], labels[cut:])
    return DataLoader(train_set, batch_size, shuffle=True, generator=shuffled), DataLoader(validation_set, 256)


def load_centralized_dataset() -> DataLoader:
    return DataLoader(_digits()[1], 256)


def train(net: Net, loader: DataLoader, epochs: int, lr: float) -> float:
    """Train in place; the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(net: Net, loader: DataLoader) -> tuple[float, float]:
    """Mean loss and accuracy."""
    net.eval()
    loss = correct = seen = 0.0
    for images, labels in loader:
        scores = net(images)
        loss += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        correct += (scores.argmax(1) == labels).sum().item()
        seen += len(labels)
    return loss / seen, correct / seen
