"""What an engine does with each feature of OpenAI's contract, as a value.

A profile comes from ``KNOWN_PROFILES`` (what a kind of engine is known to do), from a live probe
(``probing``) or from the cache of such probes. ``requests`` reads it to decide what has to be repaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, Self, get_args, get_type_hints

__all__ = ["CONFORMING", "KNOWN_PROFILES", "EngineProfile", "ModelFacts", "known_profile"]

Support = Literal["native", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known about a model; None where it is not.

    Attributes:
        context_length: In tokens, prompt and answer together.
        vision: Whether it takes images.
    """

    context_length: int | None = None
    vision: bool | None = None


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """One engine's behaviour. The defaults are OpenAI's own: nothing needs repair.

    Attributes:
        json_schema: The form in which it takes a schema, or that it takes none.
        grammar: What holds the model to the schema; ``llguidance`` means that its options can be given too.
        json_object: Whether ``response_format: json_object`` has an effect.
        n: Several choices in one answer.
        logprobs: Log probabilities of tokens.
        logit_bias: A bias on tokens.
        penalties: ``frequency_penalty`` and ``presence_penalty`` other than 0.
        strict_tools: ``strict: true`` on a function.
        tools: ``native`` calls, calls that arrive as ``text``, or ``none`` at all.
        tool_deltas: Whether tool-call deltas of a stream carry their ``index`` and answers their type and id.
        stop: Stop sequences.
        usage: Token counts in whole answers.
        stream_usage: The usage frame of a stream that asks for it.
        finish_reason: Whether it is there and ``tool_calls`` where there are tool calls.
        envelope: Whether id, created, model, role, refusal and logprobs are where clients expect them.
        content_parts: Content as a list of text parts.
        images: Image, audio and file parts; ``dropped`` means that it answers as if they were not there.
        developer_role: The role ``developer``.
        max_tokens_overflow: What happens when prompt and ``max_tokens`` together exceed the context.
        max_completion_tokens: The newer name of ``max_tokens``.
        completions: The route ``/v1/completions``.
    """

    json_schema: Literal["wrapped", "bare", "json_object_only", "ignored"] = "wrapped"
    grammar: Literal["unknown", "llguidance"] = "unknown"
    json_object: Support = "native"
    n: Support = "native"
    logprobs: Support = "native"
    logit_bias: Support = "native"
    penalties: Support = "native"
    strict_tools: Support = "native"
    tools: Literal["native", "text", "none"] = "native"
    tool_deltas: Literal["complete", "incomplete"] = "complete"
    stop: Support = "native"
    usage: Literal["present", "missing"] = "present"
    stream_usage: Literal["present", "missing"] = "present"
    finish_reason: Literal["right", "unreliable"] = "right"
    envelope: Literal["complete", "incomplete"] = "complete"
    content_parts: Support = "native"
    images: Literal["native", "dropped", "refused"] = "native"
    developer_role: Support = "native"
    max_tokens_overflow: Literal["clamped", "refused"] = "clamped"
    max_completion_tokens: Support = "native"
    completions: Literal["native", "missing"] = "native"

    def to_dict(self) -> dict[str, str]:
        """Feature to behaviour, for a cache file or a table."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A profile from ``to_dict``'s form; features that are missing behave as OpenAI's.

        Raises:
            ValueError: A feature or what it does is not known here.
        """
        hints = get_type_hints(cls)
        for name, value in values.items():
            if name not in hints:
                raise ValueError(f"'{name}' is no feature of a profile")
            if value not in get_args(hints[name]):
                raise ValueError(f"'{name}' cannot be {value!r}")
        return cls(**values)

    def changed(self, **values: str) -> Self:
        """This profile with some features replaced; raises ``ValueError`` as ``from_dict`` does."""
        return type(self).from_dict(self.to_dict() | values)

    def departures(self) -> tuple[str, ...]:
        """The features that are not as OpenAI has them, in the order of the fields."""
        return tuple(
            field.name
            for field in fields(self)
            if field.name != "grammar" and getattr(self, field.name) != getattr(CONFORMING, field.name)
        )


CONFORMING: Final = EngineProfile()

# Our runner repairs what can be repaired next to the engine (see daemon/contract.py), and says so when it cannot.
_OURS: Final = replace(
    CONFORMING,
    grammar="llguidance",
    n="refused",
    logprobs="refused",
    logit_bias="refused",
    penalties="refused",
    images="refused",
)

# Measured with foundry-local-sdk 2.2.1.
_GEN3: Final = replace(
    CONFORMING,
    json_schema="bare",
    grammar="llguidance",
    n="ignored",
    logprobs="ignored",
    logit_bias="ignored",
    penalties="refused",
    strict_tools="refused",
    tool_deltas="incomplete",
    stream_usage="missing",
    finish_reason="unreliable",
    images="dropped",
    developer_role="ignored",
    max_tokens_overflow="refused",
    max_completion_tokens="ignored",
    completions="missing",
)

# Reported in microsoft/Foundry-Local: no usage, no finish_reason, a null model (#92, #115, #299, #399), tool calls as
# text (#874, #875, #1080), schemas without effect (#81, #112). Taken for the worst until a probe has told better.
_GEN1: Final = replace(
    CONFORMING,
    json_schema="ignored",
    json_object="ignored",
    n="ignored",
    logprobs="ignored",
    logit_bias="ignored",
    penalties="ignored",
    strict_tools="refused",
    tools="text",
    tool_deltas="incomplete",
    stop="ignored",
    usage="missing",
    stream_usage="missing",
    finish_reason="unreliable",
    envelope="incomplete",
    content_parts="refused",
    images="dropped",
    developer_role="ignored",
    max_tokens_overflow="refused",
    max_completion_tokens="ignored",
    completions="missing",
)

KNOWN_PROFILES: Final[Mapping[str, EngineProfile]] = {
    "ours": _OURS,
    # It has repaired what is behind it, and refuses by itself what cannot be.
    "gateway": CONFORMING,
    "gen3": _GEN3,
    "gen1": _GEN1,
    # Unknown, and most often close to the contract; a probe says what is not.
    "openai": replace(CONFORMING, max_tokens_overflow="refused"),
}
"""By ``EngineKind``'s value; what has not been probed yet is taken to be so."""


def known_profile(kind: str | None) -> EngineProfile:
    """The starting profile of a kind of engine; an unknown kind is taken for an OpenAI-compatible server."""
    return KNOWN_PROFILES.get(str(kind), KNOWN_PROFILES["openai"])
