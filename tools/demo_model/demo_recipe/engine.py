"""The built model in the real engine: Foundry Local's SDK, in this process.

What the engine (``foundry-local-sdk`` 2.2.1) wants, as measured with this model:

* The directory holds ``genai_config.json``; the model is registered in the LOCAL
  catalogue with the property ``task`` = ``chat-completion``, and nothing else is needed:
  the properties ``supports_tool_calling``, ``tool_call_start`` and ``tool_call_end`` change
  nothing when the tokenizer has the tokens.
* A whole OpenAI request as a ``TextItem`` of type ``OPENAI_JSON`` gives an OpenAI answer.
* ``model.eos_token_id`` ends the answer, ``model.context_length`` is the limit of prompt and
  ``max_tokens`` together, and ``model.bot_token_id`` and ``model.eot_token_id`` are the
  tool-call tokens. The ONNX builder finds these two by the names ``<tool_call>`` and
  ``</tool_call>`` in the tokenizer; their ids are free. They must be tokens of their own:
  the engine refuses the same letters written as text.
* With tools the engine replaces the template's tool format by its own, see ``chat_format``.
  The grammar guarantees the name of a declared tool and JSON, not the schema: a call that
  the schema refuses is retried once with the reason in the prompt. What then still is
  wrong, or is cut off by ``max_tokens``, is an exception and no answer.
* ``response_format`` compiles to a grammar too; keys of a schema come in alphabetical order.
* With ``tool_choice: none`` the tools go to the template (which here ignores them).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foundry_local_sdk import Configuration, FoundryLocalManager
from foundry_local_sdk.catalog import CatalogType
from foundry_local_sdk.exception import FoundryLocalException as EngineError
from foundry_local_sdk.items import TextItem, TextItemType
from foundry_local_sdk.model_info import ModelInfoBuilder
from foundry_local_sdk.request import Request
from foundry_local_sdk.session import ChatSession

__all__ = ["DemoEngine", "EngineError"]

MODEL_ID = "foundry-demo:1"


class DemoEngine:
    """A loaded model that answers OpenAI chat requests; use it as a context manager.

    Only one can exist in a process, because the SDK's manager is a singleton.
    """

    def __init__(self, model_directory: Path, data_directory: Path, properties: dict[str, str] | None = None) -> None:
        configuration = Configuration(
            app_name="foundry-demo-evaluation",
            app_data_dir=str(data_directory),
            logs_dir=str(data_directory / "logs"),
            disable_nonessential_telemetry=True,
        )
        FoundryLocalManager.initialize(configuration)
        manager = FoundryLocalManager.instance
        if manager is None:
            raise EngineError("the SDK made no manager")
        self._manager = manager
        catalog = manager.get_catalog(CatalogType.LOCAL)
        if catalog.get_model_variant(MODEL_ID) is not None:
            catalog.unregister_model(MODEL_ID)
        with ModelInfoBuilder() as builder:
            for key, value in {"task": "chat-completion", **(properties or {})}.items():
                builder.set_string_property(key, value)
            catalog.register_model(str(model_directory.resolve()), MODEL_ID, builder)
        model = catalog.get_model_variant(MODEL_ID)
        if model is None:
            raise EngineError(f"{MODEL_ID} was registered but is not in the catalogue")
        self._model = model
        model.load()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The OpenAI answer to an OpenAI chat request; the SDK's error when it fails."""
        with ChatSession(self._model) as session, Request() as wrapped:
            body = {"model": MODEL_ID, "temperature": 0, **request}
            wrapped.add_item(TextItem(json.dumps(body), TextItemType.OPENAI_JSON))
            with session.process_request(wrapped) as response:
                return dict(json.loads(response.get_item(0).text))

    def stream(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The OpenAI chunks of the same request."""
        with ChatSession(self._model) as session, Request() as wrapped:
            body = {"model": MODEL_ID, "temperature": 0, "stream": True, **request}
            wrapped.add_item(TextItem(json.dumps(body), TextItemType.OPENAI_JSON))
            session.set_streaming(True)
            with session.process_streaming_request(wrapped) as items:
                return [json.loads(item.text) for item in items]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._model.unload()
        self._manager.close()
