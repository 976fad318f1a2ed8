"""Several prompts in one request: bounded concurrency, results in order, an error for each item that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi_foundry.errors import FoundryError, InvalidInputError
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.services.admission import Priority
from fastapi_foundry.services.inference import GenerationEnd, InferenceService
from fastapi_foundry.services.limit_tickets import FREE_TICKET, FreeTicket, Ticket
from fastapi_foundry.services.turns import Wish
from fastapi_foundry.wire.native import GenerateRequest

__all__ = ["BatchesService"]


class BatchesService:
    """Generates for many prompts.

    Args:
        inference: What generates for one.
        max_prompts: How many prompts one batch may hold.
        concurrency: How many of one batch are generated at the same time.
    """

    def __init__(self, inference: InferenceService, *, max_prompts: int, concurrency: int) -> None:
        self._inference = inference
        self._max_prompts = max_prompts
        self._concurrency = concurrency

    async def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        request_id: str,
        principal: Principal = LOCAL,
        ticket: Ticket | FreeTicket = FREE_TICKET,
    ) -> list[GenerationEnd | FoundryError]:
        """Generate for every request; the result at each index is the text or the fact why there is none.

        Cancelling ends all of them.

        Args:
            ticket: With which one request has been let in; each prompt counts as one, and takes a place for itself.

        Raises:
            InvalidInputError: When there are more prompts than allowed.
            LimitExceededError: When there are more than its sender may ask for within a minute.
        """
        if len(requests) > self._max_prompts:
            raise InvalidInputError(
                f"A batch may hold {self._max_prompts} prompts at most, this one has {len(requests)}.", param="prompts"
            )
        await ticket.take_more(len(requests) - 1)
        results: dict[int, GenerationEnd | FoundryError] = {}
        waiting = iter(enumerate(requests))

        async def work() -> None:
            for index, request in waiting:
                try:
                    if (refusal := ticket.budget_refusal()) is not None:
                        raise refusal
                    results[index] = await self._inference.generate(
                        request, request_id=f"{request_id}-{index}", principal=principal, wish=Wish(Priority.LOW)
                    )
                except FoundryError as fact:
                    results[index] = fact

        async with asyncio.TaskGroup() as group:
            for _ in range(1 + ticket.add_places(min(self._concurrency, len(requests)) - 1)):
                group.create_task(work())
        return [results[index] for index in range(len(requests))]
