"""The native web service's ``/v1/responses``, as far as clients have met it: create, whole or streamed."""

from __future__ import annotations

import json
from typing import Any

from tests.support.doubles.gen3_chat import ChatError, Generated
from tests.support.doubles.http import Exchange

__all__ = ["as_chat", "response", "stream"]


def as_chat(raw: bytes) -> bytes:
    """The chat request that a Responses request amounts to."""
    try:
        body = json.loads(raw)
        given = body["input"]
    except (ValueError, KeyError, TypeError):
        raise ChatError("Invalid request: [json.exception.out_of_range.403] key 'input' not found") from None
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            message["content"] = " ".join(part.get("text", "") for part in content)
    if body.get("instructions"):
        messages = [{"role": "system", "content": body["instructions"]}, *messages]
    return json.dumps(body | {"messages": messages, "max_tokens": body.get("max_output_tokens")}).encode()


def response(answer: Generated, body: dict[str, Any], status: str = "", output: bool = True) -> dict[str, Any]:
    """The response object; ``status`` other than the final one is for the events of a stream."""
    cut = answer.finish_reason == "length"
    status = status or ("incomplete" if cut else "completed")
    done = status != "in_progress"
    usage = answer.usage if done else {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {
        "background": False,
        "cancelled_at": None,
        "completed_at": None,
        "created_at": answer.created,
        "error": None,
        "failed_at": None,
        "frequency_penalty": 0.0,
        "id": f"resp_{answer.id.removeprefix('chatcmpl-')}",
        "incomplete_details": {"reason": "max_output_tokens"} if cut and done else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": answer.model,
        "object": "response",
        "output": [_message(answer, status)] if output else [],
        "output_text": answer.text if output else "",
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": None,
        "service_tier": "default",
        "status": status,
        "store": bool(body.get("store")),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
        "user": None,
    }


def _message(answer: Generated, status: str) -> dict[str, Any]:
    content = [{"text": answer.text, "type": "output_text"}]
    name = f"msg_{answer.id.removeprefix('chatcmpl-')}"
    return {"content": content, "id": name, "role": "assistant", "status": status, "type": "message"}


async def stream(answer: Generated, body: dict[str, Any], exchange: Exchange) -> None:
    """The events of a streamed response, and ``[DONE]``, which the real service adds."""
    await exchange.begin("text/event-stream", {"Cache-Control": "no-cache"})
    final = response(answer, body)
    began = response(answer, body, "in_progress", output=False)
    (item,) = final["output"]
    at = {"content_index": 0, "item_id": item["id"], "output_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": began},
        {"type": "response.in_progress", "response": began},
        {
            "type": "response.output_item.added",
            "item": item | {"content": [], "status": "in_progress"},
            "output_index": 0,
        },
        {"type": "response.content_part.added", "part": {"text": "", "type": "output_text"}} | at,
        *({"type": "response.output_text.delta", "delta": piece} | at for piece in answer.pieces),
        {"type": "response.output_text.done", "text": answer.text} | at,
        {"type": "response.content_part.done", "part": item["content"][0]} | at,
        {"type": "response.output_item.done", "item": item, "output_index": 0},
        {"type": f"response.{final['status']}", "response": final},
    ]
    for number, event in enumerate(events):
        data = json.dumps(event | {"sequence_number": number})
        await exchange.chunk(f"event: {event['type']}\ndata: {data}\n\n".encode())
    await exchange.event("[DONE]")
    await exchange.finish()
