"""Print an answer as it arrives, through the official OpenAI client.

Start the server (`python3 run.py`), install the client (`pip install openai`), then run this file.
`FOUNDRY_URL` names another server than http://localhost:9696, `FOUNDRY_MODEL` another model.
"""

from __future__ import annotations

import os
import time

from openai import OpenAI

BASE_URL = os.environ.get("FOUNDRY_URL", "http://localhost:9696")
MODEL = os.environ.get("FOUNDRY_MODEL", "foundry-demo")


def main() -> None:
    """Print each piece when it comes, then the tokens and the time to the first piece."""
    begin = time.monotonic()
    first_s: float | None = None
    usage = None
    # The client insists on a key; this server asks for none.
    with OpenAI(base_url=f"{BASE_URL}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "How do I get a bigger model?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if choice.delta.content:
                    first_s = first_s or time.monotonic() - begin
                    print(choice.delta.content, end="", flush=True)
    print()
    if usage is not None and first_s is not None:
        print(f"tokens: {usage.completion_tokens}, first after {first_s * 1000:.0f} ms")


if __name__ == "__main__":
    main()
