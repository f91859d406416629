"""LSTM and GRU layers on their way to ONNX, which has an operation for each of them.

torch's exporter unrolls a recurrent layer, a step for each token, and so fixes the length of the text that it follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# In which order ONNX has the gates of a cell, by their places in torch's.
GATES = {
    "LSTM": [0, 3, 1, 2],  # torch: input, forget, cell, output; ONNX: input, output, forget, cell
    "GRU": [1, 0, 2],  # torch: reset, update, new; ONNX: update, reset, new
}


class OnnxCell(nn.Module):
    """Stand for a recurrent layer while a graph is written: ONNX's own operation, with the layer's weights.

    It computes nothing in PyTorch. What it returns has the form of the layer's outputs, the states (B, L, D) first.
    """

    def __init__(self, cell: nn.RNNBase):
        super().__init__()
        self.kind, self.width = cell.mode, cell.hidden_size
        bias = torch.cat([self._ordered(cell.bias_ih_l0), self._ordered(cell.bias_hh_l0)])
        weights = self._ordered(cell.weight_ih_l0), self._ordered(cell.weight_hh_l0), bias
        # ONNX counts directions first; here there is one.
        for name, weight in zip(("read", "kept", "bias"), weights, strict=True):
            self.register_buffer(name, weight.detach()[None])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        texts, length = x.shape[:2]
        how: dict[str, Any] = {"hidden_size": self.width}
        if self.kind == "GRU":
            # As in torch (Cho et al. 2014, version 3): the reset gate acts behind the matrix.
            how["linear_before_reset"] = 1
        states = torch.onnx.ops.symbolic(
            self.kind,
            [x.transpose(0, 1), self.read, self.kept, self.bias],
            how,
            dtype=x.dtype,
            shape=(length, 1, texts, self.width),
        )
        return states[:, 0].transpose(0, 1), None

    def _ordered(self, weight: Tensor) -> Tensor:
        """Put the gates of a weight (gates · D, …) into ONNX's order."""
        gates = weight.chunk(len(GATES[self.kind]))
        return torch.cat([gates[place] for place in GATES[self.kind]])


@contextmanager
def cells_of_onnx(model: nn.Module) -> Iterator[None]:
    """Put an OnnxCell in the place of every recurrent layer of one direction, and the layers back at the end."""
    changed = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, (nn.LSTM, nn.GRU)) and _is_one_simple_layer(child)
    ]
    try:
        for parent, name, child in changed:
            setattr(parent, name, OnnxCell(child))
        yield
    finally:
        for parent, name, child in changed:
            setattr(parent, name, child)


def _is_one_simple_layer(cell: nn.RNNBase) -> bool:
    is_plain = cell.batch_first and cell.bias and not cell.bidirectional
    return is_plain and cell.num_layers == 1 and not getattr(cell, "proj_size", 0)
