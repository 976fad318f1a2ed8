"""Random weights, written as they are drawn, in ONNX's form for data outside of the model file."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx

NIBBLE_SPREAD = 4.61
"""Standard deviation of a number drawn evenly from -8 to 7."""


class WeightFile:
    """Writes tensors one behind the other; the same seed and name give the same tensor.

    Args:
        path: Of the file; it is replaced.
        seed: Of all tensors.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._path, self._seed = path, seed
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """Write a tensor; its name."""
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(values).data)
        kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        self._describe(name, kind, values.shape, offset, values.nbytes)
        return name

    def alias(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """The bytes of another tensor in another shape; its name."""
        tensor = next(each for each in self.tensors if each.name == of)
        where = {entry.key: entry.value for entry in tensor.external_data}
        self._describe(name, tensor.data_type, shape, int(where["offset"]), int(where["length"]))
        return name

    def normal(self, name: str, size: int, spread: float) -> str:
        """A vector around 0."""
        return self.add(name, (spread * self._dice(name).standard_normal(size)).astype(np.float32))

    def quantised(self, name: str, rows: int, columns: int, block: int) -> tuple[str, str]:
        """A matrix of int4 as ``MatMulNBits`` has it, two numbers in a byte and 8 for zero; data's name and scales' name."""
        blocks = columns // block
        data = np.frombuffer(self._dice(name).bytes(rows * columns // 2), np.uint8)
        return self.add(f"{name}_Q4", data.reshape(rows, blocks, block // 2)), self.scales(name, rows, columns, block)

    def scales(self, name: str, rows: int, columns: int, block: int, silent_rows: int = 0) -> str:
        """One scale for each block, such that a product has about the spread of what goes in; 0 for the first rows."""
        even = self._dice(f"{name}_scales").uniform(0.5, 1.5, (rows, columns // block))
        values = (even / (NIBBLE_SPREAD * columns**0.5)).astype(np.float32)
        values[:silent_rows] = 0.0
        return self.add(f"{name}_scales", values)

    def _dice(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, zlib.crc32(name.encode())]))

    def _describe(self, name: str, kind: int, shape: tuple[int, ...], offset: int, length: int) -> None:
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", self._path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
