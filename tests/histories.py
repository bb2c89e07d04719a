"""Ways to write down a session as plain calls, and to see what the rules make of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ts_langchain import Sentinel
from ts_langchain.call import Call, Prompt, Toolset, Usage
from ts_langchain.fingerprint import arguments, mix, name_hash, text_hash

START = 1_790_000_000.0


@dataclass
class Script:
    """Builds calls one after another; `at` is the time of the next one, seconds after the start."""

    session_id: str = "s"
    root_id: str = "r"
    model: str = "gpt-4o"
    turn: int = 0
    calls: list[Call] = field(default_factory=list)
    at: float = 0.0

    def tool(
        self,
        name: str,
        args: object,
        answer: object = "",
        *,
        seconds: float = 1.0,
        status: Any = "ok",
        sent: int = 1000,
        got: int = 20,
        pending: bool = False,
        asked: bool = True,
        at: float | None = None,
        captured: bool = True,
    ) -> Script:
        """A model turn that asks for a tool, and the tool's answer."""
        start = START + (self.at if at is None else at)
        requested = None
        if asked:
            requested = f"m{len(self.calls)}"
            self.calls.append(
                Call(
                    requested, "model", self.session_id, self.root_id, self.model, start, start + seconds / 2,
                    model=self.model, provider="openai", usage=Usage(sent, got), request=len(self.calls) + 1,
                    prompt=Prompt(len(self.calls) + 1, 7, len(self.calls) + 1, sent * 4, last_role="tool"),
                )
            )  # fmt: skip
        self.calls.append(
            Call(
                f"t{len(self.calls)}", "tool", self.session_id, self.root_id, name,
                start + seconds / 2, start + seconds,
                status=status, error="Boom" if status == "error" else None,
                answer=text_hash(str(answer)) if captured else 0, answer_chars=len(str(answer)),
                arguments=arguments(args), tool_call_id=f"c{len(self.calls)}", requested_by=requested, pending=pending,
                turn=self.turn,
            )
        )  # fmt: skip
        if at is None:
            self.at += seconds
        return self

    def say(self, text: str, *, sent: int = 1000, got: int = 50, seconds: float = 1.0, **more: Any) -> Script:
        """A model call that answers in words."""
        start = START + self.at
        number = len(self.calls)
        prompt = more.pop("prompt", Prompt(number + 1, 7, number + 1, sent * 4))
        self.calls.append(
            Call(
                f"m{number}", "model", self.session_id, self.root_id, self.model, start, start + seconds,
                **{
                    "model": self.model, "provider": "openai", "usage": Usage(sent, got), "prompt": prompt,
                    "request": prompt.fingerprint, "answer": text_hash(text), "answer_chars": len(text), **more,
                },
            )
        )  # fmt: skip
        self.at += seconds
        return self

    def retrieve(self, query: str, documents: list[str], *, name: str = "VectorStoreRetriever") -> Script:
        """A retriever that the app calls by itself."""
        start = START + self.at
        items = tuple(text_hash(d) for d in documents)
        self.calls.append(
            Call(
                f"q{len(self.calls)}", "retriever", self.session_id, self.root_id, name, start, start + 0.2,
                answer=mix(*items), items=items, arguments=arguments({"query": query}), turn=self.turn,
            )
        )  # fmt: skip
        self.at += 1
        return self

    def embed(self, texts: list[str], model: str = "text-embedding-3-small") -> Script:
        """An embedding request."""
        start = START + self.at
        self.calls.append(
            Call(
                f"e{len(self.calls)}", "embedding", self.session_id, self.root_id, "OpenAIEmbeddings",
                start, start + 0.1,
                model=model, provider="openai", usage=Usage(sum(len(t) for t in texts), 0),
                items=tuple(text_hash(t) for t in texts), item_tokens=tuple(len(t) for t in texts),
                request=mix(name_hash(model), *(text_hash(t) for t in texts)), temperature=0.0,
            )
        )  # fmt: skip
        self.at += 1
        return self

    def wait(self, seconds: float) -> Script:
        """Time passes."""
        self.at += seconds
        return self

    def run(self, **kwargs: Any) -> Sentinel:
        """All calls through a fresh Sentinel."""
        sentinel = Sentinel(**kwargs)
        for call in self.calls:
            sentinel.observe(call)
        assert sentinel.health().faults == {}
        return sentinel


def tools(number: int, size: int) -> Toolset:
    """A set of tools of that many bytes each."""
    names = tuple(f"tool_{i}" for i in range(number))
    return Toolset(names, (size,) * number, mix(number, size))
