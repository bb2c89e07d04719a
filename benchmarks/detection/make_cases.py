"""Writes the labelled cases: for each rule twelve sessions that must be reported and twelve that must not.

    python benchmarks/detection/make_cases.py

Each case is one or more sessions as LangSmith rows, told by `tests/rules/talk.py`. Cases vary in domain, language,
provider, message shape (OpenAI, Anthropic blocks, LangChain-serialised), ordinary turns around the waste, and strength.
Negatives are near misses: what differs is only what makes it no waste. The label names the row after which the waste is
provable: with it, a person who has read this far would call it waste.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from rules.talk import Talk

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = Path(__file__).parent / "cases.jsonl.gz"
VARIANTS = 12


class World(NamedTuple):
    """What a case is about."""

    system: str
    question: str
    look: str
    search: str
    write: str
    things: tuple[str, ...]
    nothing: str
    classify: str
    label: str
    sentence: str


WORLDS = (
    World(
        "You are a travel agent.", "Find me a flight to Lisbon in May.", "get_flight", "search_flights", "book_seat",
        ("TP123 at 07:10, 89 EUR", "LH1166 at 09:45, 140 EUR", "FR52 at 22:05, 35 EUR", "IB31 at 12:00, 99 EUR"),
        "No flights found.", "Classify this request as booking, change or complaint: I want my money back", "complaint",
        "Your seat on the morning flight is reserved and the voucher has been sent to the address we have on file.",
    ),
    World(
        "Du hilfst im Kundendienst eines Versandhauses.", "Wo bleibt meine Bestellung?", "get_order", "search_orders",
        "refund_order", ("Paket 5512 in Leipzig", "Paket 5513 in Kassel", "Paket 5514 in Ulm", "Paket 5515 in Bonn"),
        "Keine Bestellung gefunden.", "Klassifiziere: Rechnung, Technik oder Sonstiges? Meine Rechnung stimmt nicht",
        "Rechnung", "Ihre Bestellung ist unterwegs und wird in den nächsten Tagen von unserem Partner zugestellt.",
    ),
    World(
        "Tu es un assistant juridique.", "Que dit le contrat sur la résiliation ?", "read_clause", "search_clauses",
        "add_note", ("Article 12 : préavis d'un mois", "Article 13 : frais", "Article 14 : droit", "Article 15"),
        "Aucune clause trouvée.", "Cette clause est-elle abusive, oui ou non ?", "non",
        "Le contrat peut être résilié avec un préavis raisonnable adressé par courrier à la partie adverse concernée.",
    ),
    World(
        "You are a coding agent.", "Why does the build fail?", "read_file", "search_code", "apply_patch",
        ("def load(): ...", "class Parser: ...", "import yaml", "raise SystemExit(1)"), "0 matches",
        "Is this log an error, yes or no? build finished with warnings", "no",
        "The build fails because the parser module is imported before its configuration has been written to disk.",
    ),
    World(
        "Eres un analista financiero.", "¿Cómo fue el trimestre?", "get_report", "search_reports", "send_summary",
        ("Ventas 4,1 M", "Costes 3,2 M", "Margen 22 %", "Caja 1,7 M"), "Sin resultados.",
        "Clasifica el sentimiento: positivo o negativo. El margen cae por tercer mes", "negativo",
        "Las ventas crecieron en todas las regiones aunque el margen se redujo por los costes de la logística externa.",
    ),
    World(
        "あなたは調査アシスタントです。", "この製品の評判を調べてください。", "open_page", "search_web", "save_note",
        ("レビュー: 音が良い", "レビュー: 電池が短い", "価格 12800円", "在庫あり"), "見つかりませんでした。",
        "Is this review positive or negative? 電池が短い", "negative",
        "この製品は音質の評価が高い一方で、電池の持ちについては複数の利用者から不満の声が寄せられています。",
    ),
)  # fmt: skip
PROVIDERS = (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("google_genai", "gemini-2.5-pro"))


class Case:
    """A case under construction."""

    def __init__(self, rule: str, variant: int, positive: bool) -> None:
        self.rule, self.v, self.positive = rule, variant, positive
        self.world = WORLDS[variant % len(WORLDS)]
        self.provider, self.model = PROVIDERS[variant % len(PROVIDERS)]
        self.talks: list[Talk] = []
        self.provable: str | None = None
        self.wasted = 0
        self.talk = self.session()

    def session(self, name: str = "", at: float = 0.0) -> Talk:
        """A further session of this case."""
        talk = Talk(f"{self.rule}-{'p' if self.positive else 'n'}{self.v}{name}", model=self.model, at=at)
        talk.provider = self.provider
        self.talks.append(talk)
        self.talk = talk
        return talk

    def open(self, noise: int | None = None) -> Talk:
        """The opening of an ordinary conversation: a question, some looking up, an answer."""
        w, talk = self.world, self.talk
        talk.system(w.system).user(w.question)
        for n in range(self.v % 3 if noise is None else noise):
            talk.ai("", (w.look, {"id": 100 + n}, w.things[n % 4] + f" (#{100 + n})")).wait(2)
        return talk

    def waste(self) -> None:
        """All tokens of the latest model call are waste, by the rule's own definition, counted here anew."""
        if self.positive:
            row = next(r for r in reversed(self.talk.rows) if r["run_type"] == "llm")
            self.wasted += row["outputs"]["message"]["usage_metadata"]["total_tokens"]

    def now(self) -> None:
        """From the latest row on the waste is provable."""
        if self.positive and self.provable is None:
            self.provable = self.talk.rows[-1]["id"]

    def row(self) -> dict[str, Any]:
        """The case as a line of the file."""
        rows = [{k: v for k, v in row.items() if k != "_result"} for talk in self.talks for row in talk.rows]
        for row in rows:
            if row["run_type"] == "llm":
                row["inputs"] = {"messages": [shaped(m, self.v) for m in row["inputs"]["messages"]]}
        return {
            "id": f"{self.rule}/{'positive' if self.positive else 'negative'}/{self.v}",
            "rule": self.rule,
            "positive": self.positive,
            "provable": self.provable,
            "wasted_tokens": self.wasted or None,
            "rows": sorted(rows, key=lambda r: (r["start_time"], r["id"])),
        }


def shaped(message: dict[str, Any], variant: int) -> dict[str, Any]:
    """A message in OpenAI's shape as it is, as Anthropic's blocks, or as LangChain serialises it."""
    kind = variant % 3
    content, calls = message["content"], message.get("tool_calls")
    if kind == 0 or isinstance(content, list):
        return message
    functions = [(c["id"], c["function"]) for c in calls or ()]
    args = [{"id": i, "name": f["name"], "args": json.loads(f["arguments"])} for i, f in functions]
    if kind == 1:
        if message["role"] == "tool":
            block = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}
            return {"role": "user", "content": [block]}
        blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
        blocks += [{"type": "tool_use", "id": a["id"], "name": a["name"], "input": a["args"]} for a in args]
        return {"role": message["role"], "content": blocks} if args else message
    names = {"system": "SystemMessage", "user": "HumanMessage", "assistant": "AIMessage", "tool": "ToolMessage"}
    types = {"system": "system", "user": "human", "assistant": "ai", "tool": "tool"}
    fields: dict[str, Any] = {"content": content, "type": types[message["role"]]}
    if args:
        fields["tool_calls"] = [{**a, "type": "tool_call"} for a in args]
    if message["role"] == "tool":
        fields |= {"tool_call_id": message["tool_call_id"], "status": "success"}
    path = ["langchain", "schema", "messages", names[message["role"]]]
    return {"lc": 1, "type": "constructor", "id": path, "kwargs": fields}


# --- the cases, one function a rule; `c.positive` says which ------------------------------------------


def tool_loop(c: Case) -> None:
    talk, w = c.open(), c.world
    for n in range(3 + c.v % 3):
        args = {"id": 7, "detail": "full"}
        # near miss: the same call brings something new each time, or each call names another thing
        answer = w.things[0] if c.positive else w.things[n % 4] + f" ({n})"
        if not c.positive and c.v % 2:
            args, answer = {"id": 7 + n, "detail": "full"}, w.things[0]
        talk.ai("", (w.look, args, answer)).wait(3)
        if n:
            c.waste()
        if n == 2:
            c.now()
    talk.ai(w.sentence)


def retrieval_thrash(c: Case) -> None:
    talk, w = c.open(), c.world
    for n in range(3 + c.v % 3):
        found = ["a", "b"] if c.positive else [f"doc {n}-{i}" for i in range(2)]
        talk.retrieve(w.question, found).wait(4)
        if n == 2:
            c.now()
    talk.ai(w.sentence)


def retry_storm(c: Case) -> None:
    talk, w = c.open(), c.world
    gap = 1.0 if c.positive else (45.0 if c.v % 2 else 1.0)
    tries = 5 + c.v % 3 if c.positive or c.v % 2 else 3
    for n in range(tries):
        talk.ai("", error="RateLimitError('429 too many requests')", keep=False, sent=0, got=0).wait(gap)
        if n == 4:
            c.now()
    talk.ai(w.sentence)


def context_bloat(c: Case) -> None:
    talk, w = c.open(0), c.world
    size = 24_000 if c.positive else (1_500 if c.v % 2 else 24_000)
    for n in range(8 + c.v % 3):
        block = (w.sentence * (size // len(w.sentence) + 1))[:size]
        if not c.positive and not c.v % 2:  # near miss: grows as much, and the provider reads it from its cache
            talk.ai("", (w.look, {"part": n}, f"{n}: {block}"), cached=n * size // 4)
        else:
            talk.ai("", (w.look, {"part": n}, block))
        if sum(len(str(m["content"])) for m in talk.messages) > 4 * (32_000 if c.v % 3 == 0 else 50_000):
            c.now()
    cached = not c.positive and not c.v % 2
    talk.ai(w.sentence, cached=(8 + c.v % 3) * size // 4 if cached else 0)


def zombie(c: Case) -> None:
    talk, w = c.open(), c.world
    for n in range(12):
        old = w.things[n % 2]
        new = f"{w.things[n % 4]} no. {n}"
        talk.ai("", (w.look, {"step": n + c.v}, old if c.positive else new)).wait(50)
        if n == 8:
            c.now()
    talk.ai(w.sentence)


def model_misroute(c: Case) -> None:
    w, talk = c.world, c.talk
    models = (("openai", "gpt-4o"), ("anthropic", "claude-opus-4-1"), ("google_genai", "gemini-2.5-pro"))
    cheap = (("openai", "gpt-4o-mini"), ("google_genai", "gemini-2.5-flash-lite"))
    talk.provider, talk.model = models[c.v % 3] if c.positive or c.v % 2 else cheap[c.v % 4 // 2]
    asks = w.classify if c.positive or not c.v % 2 else w.question
    for n in range(1 + c.v % 3):
        talk.messages.clear()
        talk.user(f"{asks} ({n})").ai(w.label if asks == w.classify else w.sentence * 3)
        c.now()


def tool_definition_bloat(c: Case) -> None:
    w, talk = c.world, c.talk
    number = 34 + c.v if c.positive or c.v % 2 else 30
    size = 900 if c.positive or c.v % 2 else 40
    talk.tools = definitions(number, size)
    talk.user(w.question)
    for n in range(5):
        half = number // 2 + 1
        used = [] if c.positive or not c.v % 2 else [f"tool_{(n * half + i) % number}" for i in range(half)]
        talk.ai("" if used else f"{w.sentence} {n}", *((u, {"n": n}, f"{w.things[0]} {u} {n}") for u in used))
        talk.user(f"{w.question} {n}")
        if n == 2:
            c.now()


def definitions(number: int, size: int) -> list[Any]:
    """Tool definitions of that many bytes each."""
    return [
        {"type": "function", "function": {"name": f"tool_{i}", "description": "d" * size, "parameters": {}}}
        for i in range(number)
    ]


def ping_pong(c: Case) -> None:
    talk, w = c.open(0), c.world
    rounds = 3 + c.v % 2
    names = (w.look, w.search, w.write)[: 2 + c.v % 2]
    for n in range(rounds):
        for name in names:
            fresh = not c.positive and (c.v % 2 or n == 1)
            # what is changed is the same in each round, what is looked for may be another
            args = {"of": name} if c.positive and name == w.write else {"step": n, "of": name}
            talk.ai("", (name, args, f"{w.things[n % 4]} {n}" if fresh else w.nothing + name)).wait(2)
        if n == 2:
            c.now()
    talk.ai(w.sentence)


def error_loop(c: Case) -> None:
    talk, w = c.open(), c.world
    for n in range(3 + c.v % 3):
        error: Any = ValueError("total does not match")
        if not c.positive:
            error = ValueError(f"seat {n} is taken") if c.v % 2 else (error if n % 2 == 0 else w.things[n % 4])
        talk.ai("", (w.write, {"seat": f"{n}A", "total": 80 + n}, error)).wait(2)
        if n:
            c.waste()
        if n == 2:
            c.now()
    talk.ai(w.sentence)


def handoff_loop(c: Case) -> None:
    talk, w = c.open(0), c.world
    agents = ("billing", "support", "refunds")[: 2 + c.v % 2]
    steps = len(agents) * (2 + c.v % 2) if c.positive or c.v % 2 else 3
    names = agents if c.positive or c.v % 2 else ("billing", "refunds", "human")
    for n in range(steps):
        if not c.positive and c.v % 4 == 1:
            talk.ai("", (w.look, {"n": n}, f"{w.things[n % 4]} {n}"))
        if not c.positive and c.v % 4 == 3:
            talk.ai(f"Draft {n}: {w.things[n % 4]}, {w.sentence[n * 9 : n * 9 + 40]}")
        name = f"transfer_to_{names[n % len(names)]}"
        talk.ai("", (name, {}, f"Successfully transferred with {name}"))
        if n == 2 * len(agents) - 1:
            c.now()
    talk.ai(w.sentence)


def monologue(c: Case) -> None:
    talk, w = c.open(0), c.world
    for n in range(3 + c.v % 3):
        talk.ai(w.sentence if c.positive or c.v % 2 else f"{n}. {w.things[n % 4]} {w.sentence[n * 9 : n * 9 + 30]}")
        if not c.positive and c.v % 2:
            talk.user(w.question)
        if n:
            c.waste()
        if n == 2:
            c.now()


def repair_loop(c: Case) -> None:
    talk, w = c.open(0), c.world
    for n in range(3 + c.v % 2):
        changed = f"{w.sentence} {2026 + n}-0{n + 1}-1{n}, {n}A"
        talk.ai(w.sentence if c.positive else changed)
        if n:
            c.waste()
        if n == 2:
            c.now()
        talk.user(("Hm?", "And?", "Please.", "So?")[n % 4])


def truncated_output(c: Case) -> None:
    talk, w = c.open(), c.world
    finish = ("length", "max_tokens", "MAX_TOKENS")[c.v % 3]
    talk.ai(w.sentence * 3, finish=finish if c.positive or c.v % 2 else "stop", keep=False).wait(5)
    c.waste()
    if not c.positive and c.v % 2:
        talk.user("Go on.")
    talk.ai(w.sentence * 4)
    c.now()


def compaction_thrash(c: Case) -> None:
    talk, w = c.open(0), c.world
    steps = 1 + c.v % 2 if c.positive or not c.v % 2 else 4
    sent = 3_000 + 50 * c.v if c.positive or c.v % 2 else 700_000
    for n in range(4):
        for i in range(steps):
            talk.ai("", (w.look, {"page": f"{n}-{i}"}, f"{w.things[i % 4]} {n}-{i}"), sent=sent)
        talk.sum_up(f"{w.sentence} {n}")
        if n:
            c.waste()
        if n == 2:
            c.now()
    talk.ai(w.sentence, sent=sent)


def overthinking(c: Case) -> None:
    w, talk = c.world, c.talk
    talk.provider, talk.model = (("openai", "o3"), ("google_genai", "gemini-2.5-pro"))[c.v % 2]
    reasoning = 3_000 + 500 * c.v if c.positive or c.v % 2 else 300
    answer = w.label if c.positive or not c.v % 2 else w.sentence * 8
    for n in range(3 + c.v % 3):
        talk.messages.clear()
        talk.user(f"{w.classify} {n}").ai(answer, reasoning=reasoning, got=reasoning + len(answer) // 3 + 1)
        if n == 2:
            c.now()


def cache_miss(c: Case) -> None:
    w, talk = c.world, c.talk
    rules = w.sentence * (14_000 // len(w.sentence))
    stamped = c.positive and c.v % 2
    talk.system(rules)
    gap = 5.0 if c.positive or c.v % 2 else 900.0
    for n in range(5):
        if stamped:
            talk.messages[0] = {"role": "system", "content": f"It is 08:{n:02} now. {rules}"}
        cached = 0 if c.positive or not c.v % 2 or not n else 3_000
        talk.user(f"{w.question} {n}").ai(f"{w.sentence} {n}", cached=cached, sent=3_600 + 60 * n).wait(gap)
        if n == 3:
            c.now()


def dead_context(c: Case) -> None:
    talk, w = c.open(0), c.world
    rows = "; ".join(f"Row{n:04} Name{n * 7:05} {n * 37} EUR" for n in range(420))
    talk.ai("", (w.look, {"all": True}, rows))
    first = rows.split("; ")[0].split()
    for n in range(8 + c.v % 3):
        talk.ai(f"{first[0]} {first[1]}: {n}" if not c.positive else f"ok {n} so far so good").user(f"go {n}")
        if n == 5:
            c.now()


def unused_tools(c: Case) -> None:
    w, talk = c.world, c.talk
    number = 6 + c.v % 6
    talk.tools = definitions(number, 900)
    talk.user(w.question)
    for n in range(12 if c.positive or c.v % 2 else 8):
        used = [] if c.positive or not c.v % 2 else [f"tool_{(2 * n + i) % number}" for i in range(2)]
        talk.ai("" if used else f"{w.sentence} {n}", *((u, {"n": n}, f"{w.things[0]} {u} {n}") for u in used))
        talk.user(f"{w.question} {n}")
        if n == 9:
            c.now()


def duplicate_work(c: Case) -> None:
    w = c.world
    c.talks.clear()
    for n in range(4 if c.positive or c.v % 3 else 2):
        talk = c.session(f"-{n}", at=n * 90)
        talk.params = {"temperature": 0.9 if not c.positive and c.v % 3 == 1 else 0}
        different = f" ({n})" if not c.positive and c.v % 3 == 2 else ""
        talk.system(w.system + w.sentence * 12).user(w.question + different).ai(w.sentence)
        if n >= 2:
            c.waste()
        if n == 2:
            c.now()


def abandoned_stream(c: Case) -> None:
    w, talk = c.world, c.talk
    for n in range(3 + c.v % 3 if c.positive else 2):
        talk.messages.clear()
        talk.user(f"{w.question} {n}")
        talk.ai(w.sentence[:20], error=("GeneratorExit()", "CancelledError()")[c.v % 2], got=600, keep=False).wait(3)
        if n == 2:
            c.now()
    talk.user(w.question).ai(w.sentence)


def picture(n: int, detail: str | None = None) -> dict[str, Any]:
    """An image block."""
    inner: dict[str, Any] = {"url": f"https://example.com/picture-{n}.png"}
    return {"type": "image_url", "image_url": {**inner, **({"detail": detail} if detail else {})}}


def discarded_output(c: Case) -> None:
    w, talk = c.world, c.talk.system(c.world.system)
    talk.params = {"temperature": 0.7}
    talk.user(f"{w.question} JSON!")
    errors = ("OutputParserException('Invalid json output')", "ValidationError('1 validation error for Answer')")
    # near miss: the model learns what was wrong; the run waits for a person; it is the model call that fails
    near = ("told", "interrupted", "failed")[c.v % 3]
    for n in range(2 + c.v % 4):
        text = f"{w.sentence} ({n})"
        if c.positive or near == "told":
            talk.rejected(text, errors[c.v % 2])
        elif near == "interrupted":
            talk.rejected(text, "GraphInterrupt('approve?')")
        else:
            talk.rejected("", errors[c.v % 2])
            talk.rows[-2]["error"], talk.rows[-2]["outputs"] = "APIConnectionError('reset')", None
        if c.positive:
            c.waste()
        talk.wait(1)
        if near == "told" and not c.positive:
            talk.user(f"No JSON ({n}). {w.sentence}")
        if n == 1 and c.positive:  # it has been asked again; behind it stands the chain around it
            c.provable = talk.rows[-2]["id"]
    talk.ai(json.dumps({"answer": w.label}))


def vision_re_upload(c: Case) -> None:
    talk, w = c.talk.system(c.world.system), c.world
    for n in range(3 + c.v % 3):
        block = picture(c.v if c.positive else 100 * c.v + n)
        content: Any = [{"type": "text", "text": f"{w.question} {n}"}, block]
        if not c.positive and c.v % 2 and n:
            content = f"{w.question} {n}"  # near miss: the image is carried in the history
        talk.user(content).ai(w.sentence)
        if n == 2:
            c.now()


def vision_high_detail_misroute(c: Case) -> None:
    w, talk = c.world, c.talk
    talk.provider, talk.model = "openai", "gpt-4o"
    detail = (None, "high", "auto")[c.v % 3] if c.positive or c.v % 2 else "low"
    asks = w.classify if c.positive or not c.v % 2 else w.question
    for n in range(2 + c.v % 3):
        talk.messages.clear()
        talk.user([{"type": "text", "text": asks}, picture(n + 10 * c.v, detail)])
        talk.ai(w.label if asks == w.classify else w.sentence * 3)
        if n == 1:
            c.now()


def vision_cost_concentration(c: Case) -> None:
    w, talk = c.world, c.talk
    for n in range(5 + c.v % 3):
        talk.messages.clear()
        text = w.question if c.positive or c.v % 2 else w.sentence * 60
        talk.user([{"type": "text", "text": text}, picture(n + 10 * c.v)])
        talk.ai(w.label if c.positive or not c.v % 2 else w.sentence * 4)
        if n == 4:
            c.now()


def rerank_thrash(c: Case) -> None:
    w, talk = c.world, c.talk
    name = ("cohere_rerank", "voyage-reranker", "rerank_documents")[c.v % 3]
    for n in range(2 + c.v % 3):
        documents = list(w.things) if c.positive or c.v % 2 else [f"{t} {n}" for t in w.things]
        talk.tool(name, {"query": w.question, "documents": documents}, f"3, 1, 2 ({n})")
        talk.wait(2 if c.positive or not c.v % 2 else 300)
        if n == 1:
            c.now()


def voice_switching_loop(c: Case) -> None:
    talk, w = c.open(0), c.world
    key = ("voice", "voice_id")[c.v % 2]
    for n, voice in enumerate(("alloy", "echo", "nova", "fable")[: 3 + c.v % 2]):
        text = w.sentence if c.positive else f"{w.sentence} {n}"
        talk.ai("", ("text_to_speech", {"text": text, key: voice}, f"audio {n}"))
        if n:
            c.waste()
        if n == 2:
            c.now()


def audio_multichannel_doubling(c: Case) -> None:
    talk = c.open(0)
    key = ("multichannel", "multi_channel")[c.v % 2]
    channels = 2 + c.v % 3 if c.positive or c.v % 2 else 1
    on = c.positive or not c.v % 2
    talk.tool("transcribe", {"file": f"call-{c.v}.wav", key: on, "channels": channels}, c.world.sentence)
    c.now()


def embedding_waste(c: Case) -> None:
    talk, w = c.talk, c.world
    texts = [w.sentence, w.system, w.question]
    for n in range(3):
        given = texts if c.positive else [f"{t} {n}" for t in texts]
        talk._row("embedding", "OpenAIEmbeddings", {"texts": given}, {"vectors": 3}, None, 0.2, next(talk.numbers))
        talk.rows[-1]["extra"]["metadata"] |= {"ls_model_name": "text-embedding-3-small", "ls_provider": "openai"}
        talk.wait(5)
        if n == 1:
            c.now()


BUILDERS: dict[str, Callable[[Case], None]] = {
    f.__name__: f
    for f in (
        tool_loop, retrieval_thrash, retry_storm, context_bloat, zombie, model_misroute, tool_definition_bloat,
        ping_pong, error_loop, handoff_loop, monologue, repair_loop, truncated_output, overthinking, cache_miss,
        compaction_thrash, dead_context, unused_tools, duplicate_work, abandoned_stream, vision_re_upload,
        vision_high_detail_misroute, vision_cost_concentration, rerank_thrash, voice_switching_loop,
        audio_multichannel_doubling, embedding_waste, discarded_output,
    )
}  # fmt: skip


def cases() -> list[dict[str, Any]]:
    """All cases."""
    made = []
    for rule, build in BUILDERS.items():
        for positive in (True, False):
            for variant in range(VARIANTS):
                case = Case(rule, variant, positive)
                build(case)
                made.append(case.row())
    return made


def lines() -> bytes:
    """The file's content."""
    return b"".join(json.dumps(case, ensure_ascii=False).encode() + b"\n" for case in cases())


if __name__ == "__main__":
    with gzip.GzipFile(CASES, "wb", mtime=0) as file:
        file.write(lines())
    print(f"{CASES.stat().st_size:,} bytes written")
