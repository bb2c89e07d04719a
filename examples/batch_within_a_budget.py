"""A batch of 200 documents, 5 at a time, and a budget that the parallel calls cannot overspend together."""

from __future__ import annotations

import asyncio

from langchain_core.messages import AIMessage
from models import chat_model, spent

from ts_langchain import CallRefused, Sentinel, guard_model

POLICY = {"budgets": [{"per": "project", "usd": 0.02, "do": "block"}]}


async def main() -> None:
    """Summarises until the money is spent."""
    sentinel = Sentinel(policy=POLICY)
    model = guard_model(chat_model([AIMessage("A short summary of the document.")]), sentinel).bind(max_tokens=60)
    gate = asyncio.Semaphore(5)

    async def summarise(number: int) -> bool:
        async with gate:
            try:
                await model.ainvoke(f"Summarise document {number}: " + "all the words of it " * 30)
            except CallRefused:
                return False
            return True

    done = await asyncio.gather(*(summarise(n) for n in range(200)))
    dollars = spent(sentinel)
    print(f"{sum(done)} of 200 documents summarised, ${dollars:.4f} of $0.02 spent")
    assert dollars <= 0.02


if __name__ == "__main__":
    asyncio.run(main())
