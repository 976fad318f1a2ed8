"""Ask one question through the official OpenAI client.

Start the server (`python3 run.py`), install the client (`pip install openai`), then run this file.
`FOUNDRY_URL` names another server than http://localhost:9696, `FOUNDRY_MODEL` another model.
"""

from __future__ import annotations

import os

from openai import OpenAI

BASE_URL = os.environ.get("FOUNDRY_URL", "http://localhost:9696")
MODEL = os.environ.get("FOUNDRY_MODEL", "foundry-demo")


def main() -> None:
    """Print the models, then an answer and what it cost in tokens."""
    # The client insists on a key; this server asks for none.
    with OpenAI(base_url=f"{BASE_URL}/v1", api_key="none") as client:
        for model in client.models.list():
            print(f"model: {model.id}")

        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What are you?"}],
        )
    print(f"answer: {answer.choices[0].message.content}")
    if answer.usage is not None:
        print(f"tokens: {answer.usage.prompt_tokens} in, {answer.usage.completion_tokens} out")


if __name__ == "__main__":
    main()
