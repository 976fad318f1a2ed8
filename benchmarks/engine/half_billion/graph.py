"""The network as an ONNX graph: the operators that ``onnxruntime_genai.models.builder`` makes of a Qwen2 with int4 weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from benchmarks.engine.half_billion.shape import Shape
from benchmarks.engine.half_billion.weights import WeightFile
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"
OPSETS = (helper.make_opsetid("", 22), helper.make_opsetid(MICROSOFT, 1))
IR_VERSION = 10
ACCURACY_LEVEL = 4
"""Activations become int8 for a product, as in the models that Foundry Local offers for CPUs."""


class Graph:
    """Makes the nodes in their order; the weights go into ``weights`` on the way."""

    def __init__(self, shape: Shape, weights: WeightFile) -> None:
        self._shape, self._weights = shape, weights
        self._nodes: list[onnx.NodeProto] = []

    def model(self) -> onnx.ModelProto:
        """The whole of it."""
        shape = self._shape
        lengths = self._lengths()
        rope = self._rope()
        skipped = self._embedding()
        normed = self._node(
            "SimplifiedLayerNormalization",
            [skipped, self._ones("model.layers.0.input_layernorm.weight")],
            axis=-1,
            epsilon=shape.epsilon,
            stash_type=1,
        )
        for number in range(shape.layers):
            attended = self._attention(number, normed, lengths, rope)
            normed, skipped = self._norm(f"model.layers.{number}.post_attention_layernorm.weight", skipped, attended)
            told = self._mlp(f"model.layers.{number}.mlp", normed)
            after = f"model.layers.{number + 1}.input_layernorm.weight"
            last = number + 1 == shape.layers
            normed, skipped = self._norm("model.norm.weight" if last else after, skipped, told)
        self._head(normed)
        graph = helper.make_graph(self._nodes, "half-billion", self._inputs(), self._outputs(), self._weights.tensors)
        return helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION, producer_name="half-billion")

    def _lengths(self) -> list[str]:
        """What the attention wants to know: the last place of each sequence, and the length of the longest."""
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        index = helper.make_tensor("index", TensorProto.INT64, [], [1])
        self._weights.tensors += [one, index]
        summed = self._node("ReduceSum", ["attention_mask", "one"], keepdims=0)
        last = self._node("Cast", [self._node("Sub", [summed, "one"])], to=TensorProto.INT32)
        sizes = self._node("Shape", ["attention_mask"])
        longest = self._node("Cast", [self._node("Gather", [sizes, "index"], axis=0)], to=TensorProto.INT32)
        return [last, longest]

    def _rope(self) -> list[str]:
        shape = self._shape
        speeds = 1.0 / shape.rope_base ** (np.arange(0, shape.head, 2) / shape.head)
        angles = np.outer(np.arange(shape.context), speeds)
        waves = (("cos_cache", np.cos(angles)), ("sin_cache", np.sin(angles)))
        return [self._weights.add(name, wave.astype(np.float32)) for name, wave in waves]

    def _embedding(self) -> str:
        """The rows of the tokens, out of the table that the head uses too."""
        shape = self._shape
        data, scales = self._weights.quantised("model.embed_tokens", shape.vocabulary, shape.hidden, shape.block)
        flat = self._weights.alias("model.embed_tokens_flat", data, (shape.vocabulary, shape.hidden // 2))
        return self._node(
            "GatherBlockQuantized",
            [flat, "input_ids", scales],
            domain=MICROSOFT,
            bits=4,
            block_size=shape.block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _head(self, normed: str) -> None:
        """The logits; scales of its own keep the silent tokens at exactly 0, which is never the highest of so many."""
        shape = self._shape
        scales = self._weights.scales("lm_head", shape.vocabulary, shape.hidden, shape.block, shape.silent)
        self._product_of(normed, "model.embed_tokens_Q4", scales, shape.vocabulary, shape.hidden, "logits")

    def _attention(self, number: int, normed: str, lengths: Sequence[str], rope: Sequence[str]) -> str:
        shape, name = self._shape, f"model.layers.{number}.attn"
        bias = self._weights.normal(f"{name}.qkv_proj.bias", shape.qkv, 0.1)
        joined = self._node("Add", [self._product(f"{name}.qkv_proj", normed, shape.qkv, shape.hidden), bias])
        past = [f"past_key_values.{number}.key", f"past_key_values.{number}.value"]
        attended = self._node(
            "GroupQueryAttention",
            [joined, "", "", *past, *lengths, *rope],
            f"{name}.attended",
            f"present.{number}.key",
            f"present.{number}.value",
            domain=MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.head**-0.5,
            local_window_size=-1,
            do_rotary=1,
            rotary_interleaved=0,
        )
        return self._product(f"{name}.o_proj", attended, shape.hidden, shape.heads * shape.head)

    def _mlp(self, name: str, normed: str) -> str:
        shape = self._shape
        gate = self._product(f"{name}.gate_proj", normed, shape.intermediate, shape.hidden)
        up = self._product(f"{name}.up_proj", normed, shape.intermediate, shape.hidden)
        open_gate = self._node("Mul", [gate, self._node("Sigmoid", [gate])])
        return self._product(f"{name}.down_proj", self._node("Mul", [open_gate, up]), shape.hidden, shape.intermediate)

    def _norm(self, name: str, skipped: str, told: str) -> tuple[str, str]:
        """The normed sum, and the sum."""
        normed, total = f"{name}.normed", f"{name}.sum"
        self._node(
            "SkipSimplifiedLayerNormalization",
            [skipped, told, self._ones(name)],
            normed,
            "",
            "",
            total,
            domain=MICROSOFT,
            epsilon=self._shape.epsilon,
        )
        return normed, total

    def _product(self, name: str, given: str, rows: int, columns: int) -> str:
        data, scales = self._weights.quantised(f"{name}.weight", rows, columns, self._shape.block)
        return self._product_of(given, data, scales, rows, columns, f"{name}.product")

    def _product_of(self, given: str, data: str, scales: str, rows: int, columns: int, result: str) -> str:
        return self._node(
            "MatMulNBits",
            [given, data, scales],
            result,
            domain=MICROSOFT,
            N=rows,
            K=columns,
            bits=4,
            block_size=self._shape.block,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _ones(self, name: str) -> str:
        return self._weights.add(name, np.ones(self._shape.hidden, np.float32))

    def _node(self, kind: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"node_{len(self._nodes)}_{kind}"
        made = list(outputs) or [f"{name}.output"]
        self._nodes.append(helper.make_node(kind, inputs, made, name, domain=domain, **attributes))
        return made[0]

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
        mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"])
        return [tokens, mask, *self._caches("past_key_values", "past")]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        sizes = ["batch", "tokens", self._shape.vocabulary]
        return [helper.make_tensor_value_info("logits", TensorProto.FLOAT, sizes), *self._caches("present", "total")]

    def _caches(self, name: str, tokens: str) -> list[onnx.ValueInfoProto]:
        sizes = ["batch", self._shape.kv_heads, tokens, self._shape.head]
        return [
            helper.make_tensor_value_info(f"{name}.{number}.{part}", TensorProto.FLOAT, sizes)
            for number in range(self._shape.layers)
            for part in ("key", "value")
        ]
