"""A torch module whose floating-point state is read and written as one flat float32 vector."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from amgt_fed.errors import TaskError
from amgt_fed.layout import Float32Vector, Layout


class FlatModel:
    """A module beside its layout: parameters first, then floating-point buffers, each once.

    Tied parameters (two names, one tensor) appear once. Other buffers (an integer batch counter, say) do not travel:
    `load_` sets them back to what they were at first, so that no client's count reaches another's through a module
    they take turns with.

    Raises:
        TaskError: a complex or quantized parameter, or no parameter at all.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = module.to(device).float()
        self.device = torch.device(device)
        self._unshared: dict[str, Tensor] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if isinstance(tensor, nn.Parameter) and tensor.dtype != torch.float32:
                raise TaskError(f"parameter {name!r} is {tensor.dtype}; AMGT-Fed trains float32 parameters")
            if tensor.is_floating_point():
                shapes[name] = tuple(tensor.shape)
            else:
                self._unshared[name] = tensor.detach().clone()
        if not any(True for _ in self.module.parameters()):
            raise TaskError(f"model {type(module).__name__} has no parameters to train")
        self.layout = Layout.from_shapes(shapes)

    @torch.no_grad()
    def read(self) -> Float32Vector:
        """A copy of the module's state as one vector, in the layout's order."""
        vector = np.empty(self.layout.size, np.float32)
        tensors = self._state()
        for segment in self.layout.segments:
            torch.from_numpy(vector[segment.offset : segment.stop]).copy_(tensors[segment.name].reshape(-1))
        return vector

    @torch.no_grad()
    def load_(self, vector: Float32Vector) -> None:
        """Overwrite the module's state with `vector`, which is not modified."""
        self.layout.check(vector)
        flat = torch.tensor(vector)  # a copy: from_numpy would warn of read-only vectors
        tensors = self._state()
        for segment in self.layout.segments:
            tensors[segment.name].copy_(flat[segment.offset : segment.stop].view(segment.shape))
        for name, value in self._unshared.items():
            tensors[name].copy_(value)

    def _state(self) -> dict[str, Tensor]:
        # Looked up each time: a module may assign a new tensor to a buffer (`self.mean = ...`) while it runs.
        return {
            name: tensor.detach() for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers())
        }
