"""A module read and written as one vector, whatever kind of tensors it holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from amgt_fed.errors import ConfigError, TaskError
from amgt_fed.tasks import FlatModel


class Tied(nn.Module):
    """Two names for one weight, a scalar parameter, an unusual buffer or two."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4, bias=False)
        self.decoder = nn.Linear(3, 4, bias=False)
        self.decoder.weight = self.encoder.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1  # a new tensor under the old name
        return self.norm(self.encoder(x)) * self.scale


def test_parameters_come_first_then_float_buffers_each_once() -> None:
    layout = FlatModel(Tied()).layout
    assert [segment.name for segment in layout.segments] == [
        "scale",
        "encoder.weight",
        "norm.weight",
        "norm.bias",
        "mean",
        "norm.running_mean",
        "norm.running_var",
    ]
    assert layout.size == 1 + 12 + 4 + 4 + 2 + 4 + 4


def test_a_tied_weight_stays_tied() -> None:
    module = Tied()
    flat = FlatModel(module)
    flat.load_(np.arange(flat.layout.size, dtype=np.float32))
    assert module.encoder.weight is module.decoder.weight
    assert module.encoder.weight.detach().flatten().tolist() == [float(i) for i in range(1, 13)]
    assert float(module.scale.detach()) == 0.0


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_what_is_loaded_is_read_bit_for_bit(data: st.DataObject) -> None:
    flat = FlatModel(Tied())
    size = flat.layout.size
    values = st.floats(width=32, allow_nan=False)
    vector = np.array(data.draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    vector.flags.writeable = False
    flat.load_(vector)
    assert flat.read().tobytes() == vector.tobytes()


def test_a_buffer_that_was_replaced_while_training_is_still_found() -> None:
    module = Tied()
    flat = FlatModel(module)
    module(torch.ones(5, 3))
    place = next(segment for segment in flat.layout.segments if segment.name == "mean")
    assert flat.read()[place.offset : place.stop].tolist() == pytest.approx([0.1, 0.1])
    flat.load_(np.zeros(flat.layout.size, np.float32))
    assert module.mean.tolist() == [0.0, 0.0]


def test_an_integer_buffer_does_not_reach_the_next_client() -> None:
    module = Tied()
    flat = FlatModel(module)
    start = flat.read()
    module.train()
    module(torch.ones(5, 3))
    assert int(module.norm.num_batches_tracked) == 1
    flat.load_(start)
    assert int(module.norm.num_batches_tracked) == 0
    assert module.mask.tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_module_of_another_precision_is_trained_in_float32(dtype: torch.dtype) -> None:
    module = nn.Linear(3, 2).to(dtype)
    before = module.weight.detach().float()
    flat = FlatModel(module)
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight.detach(), before)
    assert flat.read().dtype == np.float32


def test_a_weight_in_another_memory_order_is_read_in_its_shape_s_order() -> None:
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    flat = FlatModel(module)
    expected = torch.cat([module.weight.detach().reshape(-1), module.bias.detach()])
    assert flat.read().tolist() == expected.tolist()
    flat.load_(np.arange(flat.layout.size, dtype=np.float32))
    assert module.weight.detach()[0, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    with pytest.raises(TaskError, match="no parameters to train"):
        FlatModel(nn.ReLU())
    module = nn.Module()
    module.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(TaskError, match=r"'phase' is torch\.complex64"):
        FlatModel(module)


def test_a_vector_of_another_size_or_dtype_is_refused() -> None:
    flat = FlatModel(nn.Linear(2, 2))
    for vector in (np.zeros(5, np.float32), np.zeros(6, np.float64)):
        with pytest.raises(ConfigError, match="this layout needs"):
            flat.load_(vector)
