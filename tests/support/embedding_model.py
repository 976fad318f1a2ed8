"""An embedding model for tests, made from the demo model: the same network with its last hidden states as output.

ONNX files are protocol buffers; appending to the graph message is all that is needed, so no ONNX library is.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["make_embedding_model"]

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_OUTPUT = 7, 1, 12
_LAST_NORM = re.compile(rb"/model/layers\.\d+/final_norm_layernorm/output_0")
_FLOAT = 1


def make_embedding_model(demo: Path, target: Path) -> Path:
    """Copy ``demo`` to ``target`` as an embedding model."""
    shutil.copytree(demo, target, ignore=shutil.ignore_patterns("inference_model.json", "*.md"))
    config_file = target / "genai_config.json"
    config = json.loads(config_file.read_text())
    decoder = config["model"]["decoder"]
    outputs = decoder["outputs"]
    del outputs["logits"]
    outputs["hidden_states"] = "hidden_states"
    config_file.write_text(json.dumps(config))
    onnx_file = target / decoder["filename"]
    onnx_file.write_bytes(_with_hidden_states(onnx_file.read_bytes(), decoder["hidden_size"]))
    return target


def _with_hidden_states(model: bytes, hidden_size: int) -> bytes:
    names = _LAST_NORM.findall(model)
    assert names, "the demo model has no final norm of the expected name"
    node = _field(1, names[0]) + _field(2, b"hidden_states") + _field(3, b"/hidden_states") + _field(4, b"Identity")
    dims = [_field(2, b"batch_size"), _field(2, b"sequence_length"), _varint(1 << 3) + _varint(hidden_size)]
    shape = b"".join(_field(1, dim) for dim in dims)
    tensor = _varint(1 << 3) + _varint(_FLOAT) + _field(2, shape)
    output = _field(1, b"hidden_states") + _field(2, _field(1, tensor))
    added = _field(_GRAPH_NODE, node) + _field(_GRAPH_OUTPUT, output)
    parts = []
    for number, head, value in _fields(model):
        parts.append(_field(number, value + added) if number == _MODEL_GRAPH else head + value)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, head and value of each field."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        if key & 7 == 0:
            _, end = _read_varint(message, position)
        else:
            assert key & 7 == 2, "only varint and length-delimited fields occur at the top of a model"
            length, position = _read_varint(message, position)
            end = position + length
        yield key >> 3, message[start:position], message[position:end]
        position = end


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if not byte & 0x80:
            return value, position
