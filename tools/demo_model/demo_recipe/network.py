"""A small Qwen2 network in plain PyTorch, with Hugging Face's parameter names.

Written out here so that a training step on two CPU cores has no overhead, and so that the
starting weights can be laid out by hand (see ``starting_weights``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The sizes of the network; lengths in tokens."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 5
    heads: int = 4
    inner: int = 512
    context: int = 4096
    rope_theta: float = 500000.0
    norm_epsilon: float = 1e-6

    @property
    def head_size(self) -> int:
        """Components of one attention head."""
        return self.hidden // self.heads

    def hugging_face_config(self, end_of_text: int, turn_end: int) -> dict[str, Any]:
        """The content of ``config.json`` for ``Qwen2ForCausalLM``."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "bos_token_id": end_of_text,
            "eos_token_id": [turn_end, end_of_text],
            "pad_token_id": end_of_text,
            "torch_dtype": "float32",
            "use_cache": True,
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)


class RootMeanSquareNorm(nn.Module):
    """RMSNorm with a learned gain."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return functional.rms_norm(hidden, (hidden.shape[-1],), self.weight, self.epsilon)


class Attention(nn.Module):
    """Causal self-attention with rotary positions; biases on q, k and v as in Qwen2."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=True)
        self.k_proj = nn.Linear(shape.hidden, shape.hidden, bias=True)
        self.v_proj = nn.Linear(shape.hidden, shape.hidden, bias=True)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """``hidden`` is (batch, tokens, size); padding must be on the right."""
        batch, tokens, size = hidden.shape
        view = (batch, tokens, self.heads, size // self.heads)
        query = self.q_proj(hidden).view(view).transpose(1, 2)
        key = self.k_proj(hidden).view(view).transpose(1, 2)
        value = self.v_proj(hidden).view(view).transpose(1, 2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, size))
        return joined


class GatedMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform each position on its own."""
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Block(nn.Module):
    """One layer: attention, then MLP, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RootMeanSquareNorm(shape.hidden, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RootMeanSquareNorm(shape.hidden, shape.norm_epsilon)
        self.mlp = GatedMLP(shape)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Apply the layer."""
        mixed: Tensor = hidden + self.self_attn(self.input_layernorm(hidden), cosine, sine)
        output: Tensor = mixed + self.mlp(self.post_attention_layernorm(mixed))
        return output


class DemoNetwork(nn.Module):
    """The language model; input and output embeddings are one matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RootMeanSquareNorm(shape.hidden, shape.norm_epsilon)
        cosine, sine = rotary_tables(shape)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)

    def attention(self, layer: int) -> Attention:
        """The attention of one layer, counted from 0."""
        return cast("Block", self.layers[layer]).self_attn

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """Final hidden states, (batch, tokens, size), of token ids (batch, tokens)."""
        length = tokens.shape[1]
        cosine, sine = self.get_buffer("cosine")[:length], self.get_buffer("sine")[:length]
        hidden: Tensor = self.embed_tokens(tokens)
        for layer in self.layers:
            hidden = layer(hidden, cosine, sine)
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token for each given hidden state."""
        return functional.linear(hidden, self.embed_tokens.weight)

    def load_hugging_face_state(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of :meth:`hugging_face_state`."""
        self.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})

    def hugging_face_state(self) -> dict[str, Tensor]:
        """The weights under the names that ``Qwen2ForCausalLM`` expects."""
        return {f"model.{name}": value.contiguous() for name, value in self.state_dict().items()}


def rotary_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (context, head size), in Hugging Face's half-split layout."""
    half = shape.head_size // 2
    frequencies = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float64), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions to (batch, heads, tokens, head size)."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine
