"""AMGT where torch.optim.Adam stood: one line changes."""

import torch
from sklearn.datasets import load_digits

from amgt_fed import AMGT

images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
images = images.float() / 16
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

optimizer = AMGT(net.parameters(), lr=0.01)  # was: torch.optim.Adam(net.parameters(), lr=0.01)

for _epoch in range(10):
    for batch in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()

accuracy = (net(images[1500:]).argmax(1) == labels[1500:]).float().mean()
print(f"test accuracy {100 * accuracy:.1f} %")
