"""int8: weights as whole numbers from -127 to 127, and what one step between two of them is worth.

q = quantize(weights, axis=0)                # the formula, on a tensor
quantize_torch(student)                      # PyTorch: linear layers
quantize_dynamic(float32, int8)              # onnxruntime: activations are scaled as they come
quantize_static(float32, int8, batches)      # … by what they were on some texts, once and for all
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdtutor.errors import KDTutorError


@dataclass(frozen=True)
class Quantized:
    """Whole numbers that stand for x ≈ scale · (values − zero_point).

    values: int32, of the tensor's shape. scale, zero_point: one each, or one for each row along the axis that was
    chosen, in a shape that broadcasts.
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor

    def dequantize(self) -> Tensor:
        """Return the numbers that they stand for, float32."""
        return self.scale * (self.values - self.zero_point)


def quantize(x: Tensor, bits: int = 8, axis: int | None = None, symmetric: bool = True) -> Quantized:
    """Round a tensor to a grid of whole numbers (Jacob et al. 2018, arXiv:1712.05877).

    symmetric: 0 stands for 0, and the largest |x| for 2^(bits−1) − 1, as weights have it. Otherwise from 0 to
    2^bits − 1, over the range of x and 0, as activations have it. axis: along which each row has a scale of its own;
    None: one for all. Raises KDTutorError if bits is not from 2 to 8, or x is not finite.
    """
    scale, zero, lowest, highest = grid_of(x, bits, axis, symmetric)
    return Quantized(((x / scale).round() + zero).clamp(lowest, highest).int(), scale, zero.int())


def grid_of(x: Tensor, bits: int, axis: int | None, symmetric: bool) -> tuple[Tensor, Tensor, int, int]:
    """Find the grid that `quantize` rounds x to: scale, zero point, and the smallest and largest whole number."""
    if not (isinstance(bits, int) and 2 <= bits <= 8):
        raise KDTutorError(f"bits must be a whole number from 2 to 8, not {bits!r}")
    dims = [d for d in range(x.dim()) if axis is None or d != axis % x.dim()]
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    if not (low.isfinite().all() and high.isfinite().all()):
        raise KDTutorError("a tensor with a number that is not finite can't be quantised")
    if symmetric:
        most = 2 ** (bits - 1) - 1
        scale = torch.maximum(-low, high).clamp(min=1e-12) / most
        return scale, torch.zeros_like(scale), -most, most
    most = 2**bits - 1
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp(min=1e-12) / most
    return scale, (-low / scale).round(), 0, most


def quantize_torch(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in PyTorch whose linear layers hold int8 weights; activations are scaled as they come.

    It answers, on a CPU, and can't be trained. (PyTorch moves this to a package of its own, torchao.)
    """
    with warnings.catch_warnings(action="ignore"):
        from torch.ao.quantization import quantize_dynamic as convert

        return convert(model, {nn.Linear}, dtype=torch.qint8)


def quantize_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights of an ONNX graph to int8, a scale for each output; activations while it runs, to uint8."""
    from onnxruntime import quantization
    from onnxruntime.quantization import QuantType

    quantization.quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


def quantize_static(source: Path, target: Path, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Quantise weights and activations of an ONNX graph to int8, the latter by their range over `batches`.

    batches: inputs of the model, (B, L) each, of texts that it may be fitted to: never those it will be judged by.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self.left, None)
            return None if batch is None else {name: value.numpy() for name, value in batch.items()}

    quantization.quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )
