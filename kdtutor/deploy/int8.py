"""int8: weights as whole numbers from -127 to 127, and a scale for each row of them.

quantize_dynamic(float32, int8)              # onnxruntime: activations are scaled as they come
quantize_static(float32, int8, batches)      # … by what they were on some texts, once and for all
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor


def quantize_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights of an ONNX graph to int8, a scale for each output; activations while it runs, to uint8."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    quantize(source, target, per_channel=True, weight_type=QuantType.QInt8)


def quantize_static(source: Path, target: Path, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Quantise weights and activations of an ONNX graph to int8, the latter by their range over `batches`.

    batches: inputs of the model, (B, L) each, of texts that it may be fitted to: never those it will be judged by.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self.left, None)
            return None if batch is None else {name: value.numpy() for name, value in batch.items()}

    quantize(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )
