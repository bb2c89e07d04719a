"""What each rule says, to the token: at which call it fires, what it calls waste, and what is just not enough."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from histories import Script

from ts_langchain import Sentinel
from ts_langchain.call import UNBILLED, Call, Image, Lost, Prompt, ToolCall, Toolset, Usage
from ts_langchain.cli.options import parse_settings
from ts_langchain.errors import ConfigurationError
from ts_langchain.fingerprint import FreeText, name_hash
from ts_langchain.pricing import Prices
from ts_langchain.rules import RULES, build_rules, rule_classes
from ts_langchain.rules.vision_re_upload import MAX_IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TURN = (1_000, 20)  # tokens of a model turn that asks for a tool, see `Script.tool`
TOOK = 0.5  # seconds such a tool call took


class Expected(NamedTuple):
    """What an incident holds once its script has run."""

    severity: str
    calls: int
    wasted: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    nano: int | None = None


def many(number: int, step: Any, script: Script | None = None) -> Script:
    script = script or Script()
    for n in range(number):
        step(script, n)
    return script


def said(number: int, text: str = "the same words", **more: Any) -> Script:
    return many(number, lambda s, _: s.say(text, **more))


def left(number: int, *, got: int = 210, gap: float = 0, **more: Any) -> Script:
    """Streams left after ten tokens."""
    return many(number, lambda s, _: s.say("x" * 40, got=got, status="cancelled", **more).wait(gap))


def discarded(number: int, *, gap: float = 1.0, same: bool = True) -> Script:
    """Answers that the chain around the call cannot use, each asked for again."""
    script = Script().say("no JSON", prompt=Prompt(0, 7, 2, 400), request=5)
    for n in range(number):
        before = script.calls[-1]
        if not same and n:
            before = script.say("no JSON", request=5 + n).calls[-1]
        lost = Lost(before.id, "OutputParserException", before.ended_at, 1.0)
        script.wait(gap).say(f"no JSON {n}", request=before.request, lost=lost)
    return script


def facts(script: Script, **traits: int) -> Script:
    """What is known of the latest tool call."""
    script.calls[-1] = script.calls[-1]._replace(traits=tuple(traits.items()))
    return script


def cached(number: int, *, carried: int = 12_000, gap: float = 0, broke: int = -1, **more: Any) -> Script:
    """Requests of 4 000 tokens that begin alike."""

    def step(s: Script, n: int) -> None:
        prompt = Prompt(n, 7, n + 1, 16_000, carried_chars=carried if n else 0, broke_at=broke if n else -1)
        s.say(f"answer {n}", **{"sent": 4_000, "prompt": prompt, **more}).wait(gap)

    return many(number, step)


def dead(number: int, unused: int, chars: int = 40_000) -> Script:
    return many(
        number,
        lambda s, n: s.say(f"answer {n}", sent=10_000, prompt=Prompt(n, 7, n + 1, chars, unused_chars=unused)),
    )


def sessions(names: str, *, gap: float = 0, **more: Any) -> Script:
    """The same request in these sessions, one after the other."""
    script = Script()
    for name in names:
        script.session_id = name
        script.say("a word", **{"prompt": Prompt(5, 7, 2, 4_000), **more}).wait(gap)
    return script


def by_user(script: Script) -> Script:
    """The user says something."""
    script.turn += 1
    return script


def fails(script: Script, error: str = "no such table", name: str = "run_sql", **more: Any) -> Script:
    return script.tool(name, {}, error, **{"status": "error", **more})


HERDS = ("sheep of Wales", "goats in May", "cattle he sold")


def handed(*steps: str) -> Script:
    """Handoffs to `target`, to `target: task` or to `target=answer`; `work`, `says words` and `new run` in between."""
    script = Script()
    for step in steps:
        if step == "work":
            script.tool("look_up", {"n": len(script.calls)}, f"finding {len(script.calls)}")
        elif step == "new run":
            script.root_id = f"r{len(script.calls)}"
        elif step.startswith("says "):
            script.say(step, answer_text=FreeText(step))
        else:
            to, _, task = step.partition(": ")
            target, _, answer = to.partition("=")
            script.tool(f"transfer_to_{target}", {"task": task} if task else {}, answer or "ok")
    return script


def alone(number: int, role: str = "ai", text: str = "shall I go on", **more: Any) -> Script:
    """The model speaks, with its own message before it."""

    def step(s: Script, n: int) -> None:
        words = text.format(n)
        s.say(words, prompt=Prompt(n + 1, 7, n + 1, 400, last_role=role), answer_text=FreeText(words), **more)

    return many(number, step)


def nudged(number: int, words: str = "go on", *, runs: int = 1, text: str = "I shall look it up now") -> Script:
    """The model says the same, and code puts the same words behind it each time, in one run."""

    def step(s: Script, n: int) -> None:
        last = name_hash(words.format(n)) if n else 1
        prompt = Prompt(n + 1, 7, 2 * n + 1, 400, last_role="human", last=last)
        s.say(text, prompt=prompt, answer_text=FreeText(text), turn=n * runs // number)

    return many(number, step)


def summed_up(number: int, steps: int = 1, *, sent: int = 20_000, runs: int = 1, **more: Any) -> Script:
    """A summary after so many requests of an agent."""

    def step(s: Script, n: int) -> None:
        s.root_id = f"r{n * runs // number}"
        for i in range(steps if n else 0):
            s.say(f"step {n} {i}", sent=sent, **more)
        s.say(f"summary {n}", sent=900, got=100, purpose="summarization")

    return many(number, step)


def unanswered(*names: str) -> Script:
    """The model asks for tools, with its own request for one before it."""

    def step(s: Script, n: int) -> None:
        asked, prompt = name_hash(names[n]), Prompt(n + 1, 7, n + 1, 400, last_role="ai")
        s.say("let me look", prompt=prompt, answer=asked, tool_calls=(ToolCall(f"c{n}", names[n], asked),))

    return many(len(names), step)


def thought(number: int, *, sent: int = 500, visible: int = 50, reasoning: int = 1_000, **more: Any) -> Script:
    usage = Usage(sent, visible + reasoning, reasoning_tokens=reasoning)
    return many(number, lambda s, _: s.say("yes", usage=usage, **more))


def circle(*answers: str, names: str = "ab", **more: Any) -> Script:
    return many(
        len(answers),
        lambda s, n: s.tool(f"get_{names[n % len(names)]}", {}, answers[n], **more),
    )


def mended(number: int, *, edit: str = "edit_file", same: bool = False, **test: Any) -> Script:
    """Something is changed and tested, again and again; the test gives the same each time."""
    return many(
        number,
        lambda s, n: s.tool(edit, {"line": 0 if same else n}, "edited").tool("run_tests", {}, "1 failed", **test),
    )


ANSWER = "The parcel left our warehouse in Leipzig on Monday morning."


def corrected(number: int, *, last: int = 10, answer: str = ANSWER, role: str = "human") -> Script:
    def step(s: Script, n: int) -> None:
        text = answer.format(n)
        prompt = Prompt(n + 1, 7, 2 * n + 2, 4_000, last_role=role, last_chars=last)
        s.say(text, prompt=prompt, answer_text=FreeText(text))

    return many(number, step)


def ranked(number: int, *, gap: float = 0, **more: Any) -> Script:
    asked = {"query": "refunds", "documents": ["a", "b"]}
    return many(number, lambda s, _: s.tool("rerank", asked, "b a", **more).wait(gap))


def cut(*reasons: str, gap: float = 0, **more: Any) -> Script:
    return many(
        len(reasons),
        lambda s, n: s.say("half a", **{"prompt": Prompt(5, 7, 2, 400), **more}, finish_reason=reasons[n]).wait(gap),
    )


def carrying(number: int, tools: int = 10, size: int = 400, used: int = 0) -> Script:
    """Calls with these tools, the first `used` of which have been called."""
    names = tuple(f"tool_{i}" for i in range(tools))
    offered = Toolset(names, (size,) * tools, 9)
    asked = tuple(ToolCall(f"c{i}", name, 1) for i, name in enumerate(names[:used]))
    return many(number, lambda s, n: s.say(f"a {n}", sent=20_000, toolset=offered, tool_calls=asked))


def looked(number: int, *, image_tokens: int = 400, got: int = 49, **more: Any) -> Script:
    return many(
        number, lambda s, n: s.say(f"a {n}", got=got, prompt=Prompt(n, 7, 2, 400, image_tokens=image_tokens), **more)
    )


def classified(number: int, *, high: bool = True, got: int = 50, classification: bool = True, **more: Any) -> Script:
    images = (Image(1, high, 765),)

    def step(s: Script, n: int) -> None:
        prompt = Prompt(n, n, 1, 80, classification=classification, images=images, image_tokens=765)
        s.say("cat", got=got, prompt=prompt, **more)

    return many(number, step)


def uploaded(number: int, *, gap: float = 0, different: bool = False, images: int = 1, **more: Any) -> Script:
    def step(s: Script, n: int) -> None:
        shown = tuple(Image(n if different else 1 + i, True, 765) for i in range(images))
        prompt = Prompt(n, 7, 2 * n + 1, 80, images=shown, image_tokens=765 * images)
        s.say(f"a {n}", prompt=prompt, **more).wait(gap)

    return many(number, step)


def spoken(*voices: int, gap: float = 0, text: int = 5) -> Script:
    return many(
        len(voices), lambda s, n: facts(s.tool("speak", {"n": n}, f"a {n}"), speech=text, voice=voices[n]).wait(gap)
    )


def growing(step: int, *, repeated: float = 0.2, start: int = 40_000) -> Script:
    def turn(s: Script, n: int) -> None:
        sent = start + n * step
        s.say(f"a {n}", sent=sent, prompt=Prompt(n, 7, n + 1, sent * 4, repeated_chars=int(sent * 4 * repeated)))

    return many(5, turn)


def stuck(number: int, seconds: float) -> Script:
    return many(number, lambda s, n: s.tool("get_page", {"n": n}, "same", seconds=seconds))


def circling(number: int, of: int) -> Script:
    """A minute each, it looks at so many pages in turn."""
    return many(number, lambda s, n: s.tool("get_page", {"n": n % of}, "same", seconds=60))


def later(script: Script, seconds: float) -> list[Call]:
    """The same calls again, so much later."""
    return [
        call._replace(id=f"{call.id} again", started_at=call.started_at + seconds, ended_at=call.ended_at + seconds)
        for call in script.calls
    ]


def unmeasured(script: Script) -> Script:
    """Embeddings of which only the request's tokens are known."""
    script.calls = [call._replace(item_tokens=()) for call in script.calls]
    return script


def asked_yes_or_no(number: int, *, sent: int, got: int, **more: Any) -> Script:
    return many(
        number,
        lambda s, n: s.say("yes", sent=sent, got=got, prompt=Prompt(n, n, 1, sent * 3, classification=True), **more),
    )


GPT_4O = (2_500, 10_000)  # nano-dollars a token
EMBEDDING = 20  # of text-embedding-3-small

FIRES: dict[str, tuple[str, Script, Expected]] = {
    "three streams left": ("abandoned_stream", left(3), Expected("medium", 3, (0, 600), 3.0)),
    "a fourth": ("abandoned_stream", left(4), Expected("medium", 4, (0, 800), 4.0)),
    "just in time": ("abandoned_stream", left(3, gap=600), Expected("medium", 3, (0, 600), 3.0)),
    "fifty tokens unread": ("abandoned_stream", left(3, got=60), Expected("medium", 3, (0, 150), 3.0)),
    "too few unread to count": ("abandoned_stream", left(3, got=59), Expected("low", 3, (0, 0), 3.0)),
    "what was thought is not unread": (
        "abandoned_stream",
        left(3, usage=Usage(9, 900, reasoning_tokens=841)),
        Expected("low", 3, (0, 0), 3.0),
    ),
    "left while it thinks": (
        "abandoned_stream",
        many(3, lambda s, _: s.say("", status="cancelled", usage=Usage(9, 900, reasoning_tokens=900))),
        Expected("medium", 3, (0, 2_700), 3.0),
    ),
    "what is spoken or drawn is not unread": (
        "abandoned_stream",
        left(3, usage=Usage(9, 900, output_audio_tokens=441, output_image_tokens=400)),
        Expected("low", 3, (0, 0), 3.0),
    ),
    "a token may be a character": (
        "abandoned_stream",
        left(3, traits=(("read", 60),)),
        Expected("medium", 3, (0, 450), 3.0),
    ),
    "nobody says what was billed": (
        "abandoned_stream",
        left(3, usage=Usage(9, 900, estimated=True)),
        Expected("low", 3, (0, 0), 3.0),
    ),
    "two channels": (
        "audio_multichannel_doubling",
        facts(Script().tool("transcribe", {}, "text"), channels=2),
        Expected("low", 1, (0, 0), TOOK / 2),
    ),
    "four channels": (
        "audio_multichannel_doubling",
        facts(Script().tool("transcribe", {}, "text"), channels=4),
        Expected("low", 1, (0, 0), TOOK * 3 / 4),
    ),
    "3 000 of 4 000 tokens at half the price": (
        "cache_miss",
        cached(4),
        Expected("low", 3, nano=3 * 3_000 * GPT_4O[0] // 2),
    ),
    "the fewest tokens that count": (
        "cache_miss",
        cached(4, carried=8_192),
        Expected("low", 3, nano=3 * 2_048 * GPT_4O[0] // 2),
    ),
    "as late as a cache lives": ("cache_miss", cached(4, gap=300), Expected("low", 3, nano=11_250_000)),
    "a new beginning": (
        "cache_miss",
        Script(calls=[*cached(3).calls, *later(cached(4), 400)]),
        Expected("low", 3, nano=11_250_000),
    ),
    "streams left long before": (
        "abandoned_stream",
        Script(calls=[*left(2).calls, *later(left(3), 700)]),
        Expected("medium", 3, (0, 600), 3.0),
    ),
    "rewritten early": ("cache_miss", cached(4, carried=0, broke=0), Expected("medium", 3, nano=15_000_000)),
    "growth by a fifth that is repeated": (
        "context_bloat",
        growing(2_500),
        Expected("medium", 1, (10_000, 0)),
    ),
    "the slowest growth that counts": (
        "context_bloat",
        growing(1_500, start=44_000),
        Expected("medium", 1, (10_000, 0)),
    ),
    "a tenth repeated": ("context_bloat", growing(2_500, repeated=0.1), Expected("medium", 1, (5_000, 0))),
    "less repeated": ("context_bloat", growing(2_500, repeated=0.05), Expected("low", 1, (2_500, 0))),
    "half of the prompt unused": ("dead_context", dead(1, 20_000), Expected("medium", 1, (5_000, 0))),
    "a fifth of it": ("dead_context", dead(1, 8_000), Expected("low", 1, (2_000, 0))),
    "again": ("dead_context", dead(2, 8_000), Expected("low", 2, (4_000, 0))),
    "a third session": ("duplicate_work", sessions("abc"), Expected("low", 1, (1_000, 50), 1.0)),
    "one after the first was answered": (
        "duplicate_work",
        Script(calls=[*sessions("ab").calls, *later(sessions("c"), 1.5)]),
        Expected("low", 1, (1_000, 50), 1.0),
    ),
    "a vote after those of two others": (
        "duplicate_work",
        Script(calls=[*sessions("abc", gap=-1).calls, *later(sessions("d"), 2)]),
        Expected("low", 1, (1_000, 50), 1.0),
    ),
    "at temperature 0": ("duplicate_work", sessions("abc", temperature=0.0), Expected("low", 1, (1_000, 50), 1.0)),
    "a day apart": ("duplicate_work", sessions("abc", gap=86_399), Expected("low", 1, (1_000, 50), 1.0)),
    "a repeat in the third": ("duplicate_work", sessions("abcc"), Expected("low", 1, (1_000, 50), 1.0)),
    "an answer lost and asked for again": ("discarded_output", discarded(1), Expected("low", 1, (1_000, 50), 1.0)),
    "ten minutes later": ("discarded_output", discarded(1, gap=600), Expected("low", 1, (1_000, 50), 1.0)),
    "three answers lost": ("discarded_output", discarded(3), Expected("medium", 3, (3_000, 150), 3.0)),
    "three answers to three requests": (
        "discarded_output",
        discarded(3, same=False),
        Expected("medium", 3, (3_000, 150), 3.0),
    ),
    "one text of two": (
        "embedding_waste",
        Script().embed(["x" * 10, "y" * 30]).embed(["x" * 10, "z" * 30]),
        Expected("low", 1, (10, 0), 0.0, nano=10 * EMBEDDING),
    ),
    "all texts": (
        "embedding_waste",
        Script().embed(["x" * 10, "y" * 30]).embed(["y" * 30]),
        Expected("low", 1, (30, 0), 0.1, nano=30 * EMBEDDING),
    ),
    "a text twice in one request": (
        "embedding_waste",
        Script().embed(["x" * 10, "x" * 10]),
        Expected("low", 1, (10, 0), 0.0, nano=10 * EMBEDDING),
    ),
    "texts of unknown length": (
        "embedding_waste",
        unmeasured(Script().embed(["x" * 10, "y" * 30]).embed(["x" * 10, "z" * 30])),
        Expected("low", 1, (20, 0), 0.0, nano=20 * EMBEDDING),
    ),
    "yes or no": (
        "model_misroute",
        asked_yes_or_no(1, sent=300, got=1),
        Expected("low", 1, nano=int((300 * 2_500 + 1 * 10_000) * (1 - 0.15 / 2.5))),
    ),
    "the longest question": (
        "model_misroute",
        asked_yes_or_no(2, sent=500, got=50),
        Expected("low", 2, nano=2 * int((500 * 2_500 + 50 * 10_000) * (1 - 0.15 / 2.5))),
    ),
    "200 tokens": ("duplicate_work", sessions("abc", sent=200), Expected("low", 1, (200, 50), 1.0)),
    "three failures": (
        "error_loop",
        fails(fails(fails(Script()))),
        Expected("high", 2, (2 * TURN[0], 2 * TURN[1]), 2 * TOOK),
    ),
    "nothing where it was looked for": (
        "error_loop",
        many(5, lambda s, n: s.tool("read_file", {"path": f"{n}.py"}, "not found", status="error")),
        Expected("medium", 4, (4 * TURN[0], 4 * TURN[1]), 4 * TOOK),
    ),
    "nothing anywhere": (
        "error_loop",
        many(6, lambda s, n: s.tool("read_file", {"path": f"{n}.py"}, "not found", status="error")),
        Expected("medium", 5, (5 * TURN[0], 5 * TURN[1]), 5 * TOOK),
    ),
    "three failures, each asked for by the user": (
        "error_loop",
        many(3, lambda s, _: fails(by_user(s))),
        Expected("medium", 2, (2 * TURN[0], 2 * TURN[1]), 2 * TOOK),
    ),
    "a cancelled one in between": (
        "error_loop",
        fails(fails(fails(fails(Script()), status="cancelled"))),
        Expected("high", 2, (2 * TURN[0], 2 * TURN[1]), 2 * TOOK),
    ),
    "a, b, a, b": (
        "handoff_loop",
        handed("a", "b", "a", "b"),
        Expected("high", 2, (2 * TURN[0], 2 * TURN[1]), 2 * TOOK),
    ),
    "to oneself": (
        "handoff_loop",
        handed("a", "a", "a", "a"),
        Expected("high", 3, (3 * TURN[0], 3 * TURN[1]), 3 * TOOK),
    ),
    "an agent that says the same": (
        "handoff_loop",
        handed("a", "says what do you mean by that now", "a", *["says what do you mean by that", "a"] * 3),
        Expected("high", 3, (3 * TURN[0], 3 * TURN[1]), 3 * TOOK),
    ),
    "the same task in other words": (
        "handoff_loop",
        handed("a: find out who paid it now", "b", "a: now find out who paid it", "b"),
        Expected("high", 2, (2 * TURN[0], 2 * TURN[1]), 2 * TOOK),
    ),
    "three agents": (
        "handoff_loop",
        handed("a", "b", "c", "a", "b", "c"),
        Expected("high", 3, (3 * TURN[0], 3 * TURN[1]), 3 * TOOK),
    ),
    "the model says it three times": ("monologue", alone(3), Expected("high", 2, (2_000, 100), 2.0)),
    "and a fourth time": ("monologue", alone(4), Expected("high", 3, (3_000, 150), 3.0)),
    "it says nothing three times": (
        "monologue", alone(3, text="", got=8, finish_reason="stop"), Expected("high", 2, (2_000, 16), 2.0),
    ),
    "it is told to go on, and says the same": ("monologue", nudged(4), Expected("medium", 2, (2_000, 100), 2.0)),
    "nobody answers what it asks for": ("monologue", unanswered(*"aaa"), Expected("high", 2, (2_000, 100), 2.0)),
    "summed up three times": ("compaction_thrash", summed_up(3), Expected("medium", 2, (1_800, 200), 2.0)),
    "two steps between summaries": ("compaction_thrash", summed_up(3, 2), Expected("medium", 2, (1_800, 200), 2.0)),
    "a quarter of the window": (
        "compaction_thrash", summed_up(3, sent=32_000), Expected("medium", 2, (1_800, 200), 2.0),
    ),
    "1 000 tokens of thought before 50 of an answer": ("overthinking", thought(3), Expected("low", 3, (0, 3 * 744))),
    "a fourth thought": ("overthinking", thought(4), Expected("low", 4, (0, 4 * 744))),
    "as long as a simple request may be": ("overthinking", thought(3, sent=1_000), Expected("low", 3, (0, 3 * 744))),
    "x, y, x, y, x, y": ("ping_pong", circle(*"xyxyxy"), Expected("high", 4, (4 * TURN[0], 4 * TURN[1]), 4 * TOOK)),
    "and x": ("ping_pong", circle(*"xyxyxyx"), Expected("high", 5, (5 * TURN[0], 5 * TURN[1]), 5 * TOOK)),
    "the same change and the same test": (
        "ping_pong",
        mended(3, same=True),
        Expected("high", 4, (4 * TURN[0], 4 * TURN[1]), 4 * TOOK),
    ),
    "six tools": (
        "ping_pong",
        circle(*"uvwxyz" * 3, names="abcdef"),
        Expected("high", 12, (12 * TURN[0], 12 * TURN[1]), 12 * TOOK),
    ),
    "two corrections": ("repair_loop", corrected(3), Expected("medium", 2, (2_000, 100), 2.0)),
    "three corrections": ("repair_loop", corrected(4), Expected("medium", 3, (3_000, 150), 3.0)),
    "the longest correction": ("repair_loop", corrected(3, last=47), Expected("medium", 2, (2_000, 100), 2.0)),
    "the shortest answer": ("repair_loop", corrected(3, answer="x" * 40), Expected("medium", 2, (2_000, 100), 2.0)),
    "ranked twice": ("rerank_thrash", ranked(2), Expected("low", 1, TURN, TOOK)),
    "ranked three times": ("rerank_thrash", ranked(3, gap=29.5), Expected("medium", 2, (2_000, 40), 2 * TOOK)),
    "cut off, then whole": ("truncated_output", cut("length", "stop"), Expected("low", 1, (1_000, 50), 1.0)),
    "cut off by the context window": (
        "truncated_output",
        cut("model_context_window_exceeded", "stop"),
        Expected("low", 1, (1_000, 50), 1.0),
    ),
    "cut off twice": ("truncated_output", cut("max_tokens", "length"), Expected("medium", 1, (1_000, 50), 1.0)),
    "cut off at 17 tokens": (
        "truncated_output",
        cut("length", "stop", max_tokens=17),
        Expected("low", 1, (1_000, 50), 1.0),
    ),
    "cut off three times": (
        "truncated_output",
        cut("length", "length", "length", gap=300),
        Expected("medium", 2, (2_000, 100), 2.0),
    ),
    "no limit and then one": (
        "truncated_output",
        cut("length", "stop", max_tokens=100),
        Expected("low", 1, (1_000, 50), 1.0),
    ),
    "ten unused tools": ("unused_tools", carrying(10), Expected("low", 1, (1_000, 0))),
    "one call more": ("unused_tools", carrying(11), Expected("low", 2, (2_000, 0))),
    "half of them used": ("unused_tools", carrying(10, 10, 700, used=5), Expected("low", 1, (875, 0))),
    "five tiny answers about images": ("vision_cost_concentration", looked(5), Expected("low", 1)),
    "six of them": ("vision_cost_concentration", looked(6), Expected("low", 2)),
    "two yes or no questions in high detail": (
        "vision_high_detail_misroute",
        classified(2),
        Expected("low", 2, (2 * 680, 0)),
    ),
    "three of them": ("vision_high_detail_misroute", classified(3), Expected("low", 3, (3 * 680, 0))),
    "behind a gateway": (
        "vision_high_detail_misroute",
        classified(2, provider="openrouter", model="openai/gpt-4o"),
        Expected("low", 2, (2 * 680, 0)),
    ),
    "an image three times": ("vision_re_upload", uploaded(3), Expected("medium", 2, (2 * 765, 0))),
    "two images three times": (
        "vision_re_upload", uploaded(3, images=2, sent=2_000), Expected("medium", 2, (4 * 765, 0))
    ),
    "images that took less than was guessed": (
        "vision_re_upload", uploaded(3, sent=314), Expected("medium", 2, (2 * 306, 0))
    ),
    "an image four times": ("vision_re_upload", uploaded(4, gap=300), Expected("medium", 3, (3 * 765, 0))),
    "three voices": ("voice_switching_loop", spoken(1, 2, 3), Expected("medium", 2, (2_000, 40), 2 * TOOK)),
    "slowly": ("voice_switching_loop", spoken(1, 2, 3, gap=59.5), Expected("medium", 2, (2_000, 40), 2 * TOOK)),
    "five minutes of the same": ("zombie", stuck(6, 60), Expected("medium", 10, (5 * TURN[0], 5 * TURN[1]), 300.0)),
}  # fmt: skip

MORE_THAN_ENOUGH = {
    "a repeat in the third", "the longest question",
    "a fourth", "again", "and a fourth time", "a fourth thought", "and x", "three corrections", "ranked three times",
    "cut off three times", "one call more", "six of them", "three of them", "an image four times",
    "nothing where it was looked for", "nothing anywhere", "three answers lost", "three answers to three requests",
}  # fmt: skip


@pytest.mark.parametrize("case", FIRES)
def test_fires(case: str) -> None:
    rule, script, expected = FIRES[case]
    [incident] = script.run(rules=[rule]).incidents()
    wasted = incident.wasted_input_tokens, incident.wasted_output_tokens
    assert (incident.severity, incident.calls, wasted) == expected[:3]
    assert incident.wasted_seconds == pytest.approx(expected.seconds)
    nano = expected.nano
    if nano is None:
        nano = sum(tokens * price for tokens, price in zip(wasted, GPT_4O, strict=True))
    assert incident.wasted_nano == nano
    assert len(incident.call_ids) == len(set(incident.call_ids)) == incident.calls
    if case not in MORE_THAN_ENOUGH:  # it fires at the last call, not before
        assert Script(calls=script.calls[:-1]).run(rules=[rule]).incidents() == []


EVIDENCE: dict[str, dict[str, object]] = {
    "too few unread to count": {"streams": 3, "unread_tokens": 0, "usage_reported": True},
    "nobody says what was billed": {"streams": 3, "unread_tokens": 0, "usage_reported": False},
    "a fourth": {"streams": 4, "unread_tokens": 800, "usage_reported": True},
    "four channels": {"tool": "transcribe", "channels": 4, "calls": 1},
    "3 000 of 4 000 tokens at half the price": {
        "model": "gpt-4o",
        "calls": 3,
        "prefix_tokens": 3000,
        "broke_at_message": None,
        "tools_changed": False,
        "chars_before": 16000,
    },
    "rewritten early": {
        "model": "gpt-4o",
        "calls": 3,
        "prefix_tokens": 4000,
        "broke_at_message": 0,
        "tools_changed": False,
        "chars_before": 16000,
    },
    "growth by a fifth that is repeated": {
        "turns": 5,
        "slope_tokens": 2500,
        "input_tokens": 50000,
        "cache_read_tokens": 0,
        "context_window": 128000,
        "repeated_share": 0.2,
        "tool_result_share": 0.0,
        "usage_estimated": False,
    },
    "again": {"calls": 2, "unused_chars": 8000, "share": 0.2},
    "three answers lost": {"model": "gpt-4o", "answers": 3, "in_a_row": 3, "error": "OutputParserException"},
    "three answers to three requests": {
        "model": "gpt-4o",
        "answers": 3,
        "in_a_row": 1,
        "error": "OutputParserException",
    },
    "a third session": {"model": "gpt-4o", "sessions": 3, "same_answer": True},
    "three failures": {"tool": "run_sql", "failures": 3, "error": "Boom"},
    "three agents": {"handoffs": 6, "agents": 3, "tool": "transfer_to_c"},
    "and a fourth time": {"messages": 4, "answer_chars": 13},
    "a fourth thought": {"model": "gpt-4o", "calls": 4, "reasoning_tokens": 1000, "visible_tokens": 50},
    "and x": {"period": 2, "rounds": 3, "calls": 7},
    "three corrections": {"corrections": 3, "answer_chars": 59},
    "ranked three times": {"reranker": "rerank", "calls": 3},
    "cut off twice": {"model": "gpt-4o", "finish_reason": "length", "cut_off_again": True},
    "one call more": {
        "tools": 10,
        "unused_tools": 10,
        "bytes": 4000,
        "unused_bytes": 4000,
        "calls": 11,
        "tokens_estimated": True,
    },
    "six of them": {"calls": 6, "image_tokens": 400, "image_share": 0.8, "output_tokens": 49, "tokens_estimated": True},
    "three of them": {"model": "gpt-4o", "image_tokens": 765, "tokens_estimated": True},
    "an image four times": {"uploads": 4, "image_tokens": 765, "tokens_estimated": True},
    "three voices": {"tool": "speak", "voices": 3},
    "five minutes of the same": {"calls": 10, "seconds": 300.0},
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_the_evidence(case: str) -> None:
    rule, script, _ = FIRES[case]
    [incident] = script.run(rules=[rule]).incidents()
    assert {k: v for k, v in incident.evidence.items() if not k.endswith("_hash")} == EVIDENCE[case]


JUST_NOT: dict[str, tuple[str, Script]] = {
    "a stream left too late": ("abandoned_stream", left(2).wait(600.5).say("x", status="cancelled")),
    "an answer that is not asked for again": ("discarded_output", Script().say("no JSON")),
    "asked for again too late": ("discarded_output", discarded(9, gap=600.5)),
    "a stream that failed": ("abandoned_stream", left(2).say("", status="error")),
    "one channel": ("audio_multichannel_doubling", facts(Script().tool("transcribe", {}, ""), channels=1)),
    "a transcription that failed": (
        "audio_multichannel_doubling",
        facts(Script().tool("transcribe", {}, "", status="error"), channels=2),
    ),
    "a token read from the cache": ("cache_miss", cached(9, usage=Usage(4_000, 9, 1))),
    "usage that is estimated": ("cache_miss", cached(9, usage=Usage(4_000, 9, estimated=True))),
    "too few tokens in common": ("cache_miss", cached(9, carried=8_188)),
    "later than a cache lives": ("cache_miss", cached(9, gap=300.5)),
    "a model that caches nothing": ("cache_miss", cached(9, model="no-such-model")),
    "three growing turns": ("context_bloat", Script(calls=growing(2_500).calls[-3:])),
    "slow growth": ("context_bloat", growing(1_499, start=44_004)),
    "a context that does not weigh": ("context_bloat", growing(2_500, start=10_000)),
    "few unused characters": ("dead_context", dead(3, 7_999)),
    "a small share": ("dead_context", dead(3, 8_000, chars=40_001)),
    "two sessions": ("duplicate_work", sessions("ab")),
    "two sessions in turn": ("duplicate_work", sessions("ababab")),
    "one session": ("duplicate_work", sessions("aaaa")),
    "votes under way together": ("duplicate_work", sessions("abcde", gap=-1)),
    "votes a day after a first one": (
        "duplicate_work",
        Script(calls=[*sessions("a").calls, *later(sessions("bcde", gap=-1), 100_000)]),
    ),
    "a temperature": ("duplicate_work", sessions("abc", temperature=0.1)),
    "short requests": ("duplicate_work", sessions("abc", sent=199)),
    "requests of different days": ("duplicate_work", sessions("abcd", gap=86_400)),
    "an earlier range, imported later": ("duplicate_work", sessions("abcd", gap=-86_410)),
    "requests that failed": ("duplicate_work", sessions("abc", status="error")),
    "changes and tests in turn": ("ping_pong", mended(9)),
    "one document after the other, in two steps": (
        "ping_pong",
        many(9, lambda s, n: s.tool("process", {"n": n}, "ok").tool("notify", {"n": n}, "sent")),
    ),
    "tests that fail after changes": ("error_loop", mended(9, status="error")),
    "changes and tests for ten minutes": ("zombie", mended(10, seconds=60.0)),
    "one document after the other": ("zombie", many(20, lambda s, n: s.tool("process", {"n": n}, "ok", seconds=60.0))),
    "a success in between": (
        "error_loop",
        fails(fails(fails(fails(Script())).tool("run_sql", {}, "rows"))),
    ),
    "different errors": ("error_loop", fails(fails(fails(fails(Script()), "a"), "b"), "a")),
    "failures too far apart": ("error_loop", fails(fails(fails(Script()).wait(300)).wait(300))),
    "three handoffs": ("handoff_loop", handed("a", "b", "a")),
    "a task passed on": ("handoff_loop", handed("a", "b", "c", "d", "e")),
    "work in between": ("handoff_loop", handed("a", "b", "work", "a", "b", "work", "a")),
    "a new run": ("handoff_loop", handed("a", "b", "new run", "a", "b")),
    "three handoffs to the same": ("handoff_loop", handed("a", "a", "a")),
    "drafts and reviews": (
        "handoff_loop",
        handed("a", "says the sea", "b", "says too short", "a", "says the wide blue sea", "b", "says very good"),
    ),
    "one draft after the other": ("handoff_loop", handed("a", "says one", "a", "says two", "a", "says three", "a")),
    "another task each time": ("handoff_loop", handed(*(f"{a}: count the {t}" for t in HERDS for a in "ab"))),
    "another result each time": ("handoff_loop", handed(*(f"{a}=there are {t}" for t in HERDS for a in "ab"))),
    "another result of one agent": ("handoff_loop", handed("a=1", "b", "a=2", "b", "a=3", "b", "a=4")),
    "told to go on twice": ("monologue", nudged(3)),
    "told something else each time": ("monologue", nudged(9, "look at number {}")),
    "an answer that is not recorded": ("monologue", alone(9, text="", got=0)),
    "an answer that could not be read": ("monologue", alone(9, text="", got=9, finish_reason="stop")),
    "yes each time": ("monologue", nudged(9, text="Yes.")),
    "told to go on in runs of its own": ("monologue", nudged(9, runs=9)),
    "other tools in the same words": ("monologue", unanswered(*"abcdefg")),
    "a user has spoken": ("monologue", alone(9, role="human")),
    "something new each time": ("monologue", alone(9, text="now I look at number {} of the list")),
    "summed up twice": ("compaction_thrash", summed_up(2)),
    "three steps between summaries": ("compaction_thrash", summed_up(9, 3)),
    "more than a quarter of the window": ("compaction_thrash", summed_up(9, sent=32_001)),
    "a window of which nothing is known": ("compaction_thrash", summed_up(9, sent=4_001, model="our-own")),
    "one summary in each of several runs": ("compaction_thrash", summed_up(9, runs=9)),
    "parts of one summary": ("compaction_thrash", summed_up(9, 0)),
    "agents side by side, of one summary each": (
        "compaction_thrash",
        many(9, lambda s, n: s.say("s", purpose="summarization", around=n).say("x", around=n)),
    ),
    "not that much thought": ("overthinking", thought(9, reasoning=999, visible=9)),
    "a longer answer": ("overthinking", thought(9, visible=51, reasoning=5_000)),
    "a longer request": ("overthinking", thought(9, sent=1_001)),
    "in proportion": ("overthinking", thought(9, visible=50, reasoning=999)),
    "thought before tool calls": ("overthinking", thought(9, tool_calls=(ToolCall("i", "n", 1),))),
    "one answer that differs": ("ping_pong", circle(*"xyxyxz")),
    "one tool": ("ping_pong", circle(*"xxxxxxxx", names="a")),
    "seven tools": ("ping_pong", circle(*"tuvwxyz" * 3, names="abcdefg")),
    "still waiting": ("ping_pong", circle(*"xyxyxyxy", pending=True)),
    "nothing captured": ("ping_pong", circle(*"xyxyxyxy", captured=False)),
    "a longer correction": ("repair_loop", corrected(9, last=48)),
    "a stock phrase": ("repair_loop", corrected(9, answer="x" * 39)),
    "other numbers": ("repair_loop", corrected(9, answer="Your table for {} people is booked for Monday evening.")),
    "a longer question": ("model_misroute", asked_yes_or_no(3, sent=501, got=1)),
    "a longer yes": ("model_misroute", asked_yes_or_no(3, sent=300, got=51)),
    "with tools": ("model_misroute", asked_yes_or_no(3, sent=300, got=1, toolset=Toolset(("a",), (9,), 1))),
    "a small model": ("model_misroute", asked_yes_or_no(3, sent=300, got=1, model="gpt-4o-mini")),
    "texts by another model": ("embedding_waste", Script().embed(["x"]).embed(["x"], model="text-embedding-3-large")),
    "other texts": ("embedding_waste", many(9, lambda s, n: s.embed([f"text {n}"]))),
    "no user": ("repair_loop", corrected(9, role="tool")),
    "rankings that are compared": ("rerank_thrash", many(9, lambda s, _: s.tool("compare_rankings", {}, ""))),
    "ranked long after": ("rerank_thrash", ranked(9, gap=29.75)),
    "a ranking that failed": ("rerank_thrash", ranked(9, status="error")),
    "given more room": (
        "truncated_output",
        cut("length", max_tokens=100).say("whole", prompt=Prompt(5, 7, 2, 400), max_tokens=101),
    ),
    "given all the room there is": (
        "truncated_output",
        cut("length", max_tokens=100).say("whole", prompt=Prompt(5, 7, 2, 400)),
    ),
    "given more room than was said": (
        "truncated_output",
        cut("length").say("whole", prompt=Prompt(5, 7, 2, 400), max_tokens=100),
    ),
    "a limit that is meant": ("truncated_output", cut("length", "length", "length", max_tokens=16)),
    "cut off once, and kept in a cache": (
        "truncated_output",
        cut("length").say("half a", prompt=Prompt(5, 7, 2, 400), finish_reason="length", source_cost=UNBILLED),
    ),
    "another request": ("truncated_output", cut("length").say("go on", prompt=Prompt(6, 7, 3, 400))),
    "long after": ("truncated_output", cut("length", "stop", gap=300.5)),
    "not cut off": ("truncated_output", cut("stop", "stop", "stop")),
    "nine calls": ("unused_tools", carrying(9)),
    "two tools unused": ("unused_tools", carrying(20, 2, 2_000)),
    "small definitions": ("unused_tools", carrying(20, 10, 299)),
    "more than half used": ("unused_tools", carrying(20, 9, 1_000, used=5)),
    "large toolsets are another rule's": ("unused_tools", carrying(20, 40, 1_000)),
    "a smaller share of images": ("vision_cost_concentration", looked(9, image_tokens=399)),
    "an answer of fifty tokens": ("vision_cost_concentration", looked(9, got=50)),
    "low detail": ("vision_high_detail_misroute", classified(9, high=False)),
    "no classification": ("vision_high_detail_misroute", classified(9, classification=False)),
    "an answer of 51 tokens": ("vision_high_detail_misroute", classified(9, got=51)),
    "a provider without detail": ("vision_high_detail_misroute", classified(9, provider="anthropic")),
    "another vendor's model behind a gateway": (
        "vision_high_detail_misroute",
        classified(9, provider="openrouter", model="anthropic/claude-sonnet-4"),
    ),
    "a vendor of open models behind one": (
        "vision_high_detail_misroute",
        classified(9, provider="openrouter", model="meta-llama/llama-4-maverick"),
    ),
    "a model of another vendor's by its name": (
        "vision_high_detail_misroute",
        classified(9, provider="openai", model="gemini-2.5-pro"),
    ),
    "two uploads": ("vision_re_upload", uploaded(2)),
    "different images": ("vision_re_upload", uploaded(9, different=True)),
    "uploads far apart": ("vision_re_upload", uploaded(9, gap=300.5)),
    "read from the cache": ("vision_re_upload", uploaded(9, usage=Usage(1_000, 9, 501))),
    "two voices": ("voice_switching_loop", spoken(1, 2)),
    "one voice": ("voice_switching_loop", spoken(1, 1, 1, 1)),
    "voices far apart": ("voice_switching_loop", spoken(1, 2, 3, gap=60)),
    "not quite five minutes": ("zombie", stuck(6, 59)),
    "few calls": ("zombie", stuck(2, 400)),
}


HIGH: dict[str, tuple[str, dict[str, object], Script, str, int]] = {
    "streams": ("abandoned_stream", {"min_streams": 9}, left(11), "streams", 11),
    "handoffs": ("handoff_loop", {"min_handoffs": 14}, handed(*"ab" * 8), "handoffs", 16),
    "rounds of six tools": ("ping_pong", {"min_rounds": 5}, circle(*"uvwxyz" * 5, names="abcdef"), "calls", 30),
    "voices": ("voice_switching_loop", {"min_voices": 8}, spoken(*range(8)), "voices", 8),
    "answers lost": ("discarded_output", {"min_discarded": 9}, discarded(11), "answers", 11),
    "sessions": ("duplicate_work", {"min_sessions": 12}, sessions("abcdefghijklm"), "sessions", 13),
    "messages": ("monologue", {"min_messages": 12}, alone(13), "messages", 13),
    "corrections": ("repair_loop", {"min_corrections": 9}, corrected(11), "corrections", 10),
    "failures": ("error_loop", {"min_failures": 12}, many(13, lambda s, _: fails(s)), "failures", 13),
    "summaries": ("compaction_thrash", {"min_summaries": 12}, summed_up(13), "summaries", 13),
    "thoughts": ("overthinking", {"min_calls": 12}, thought(13), "calls", 13),
    "images": ("vision_re_upload", {"min_uploads": 12}, uploaded(13), "uploads", 13),
    "rankings": ("rerank_thrash", {"min_calls": 12}, ranked(13), "calls", 13),
    "uncached": ("cache_miss", {"min_calls": 12}, cached(14), "calls", 13),
}


@pytest.mark.parametrize("case", HIGH)
def test_a_high_threshold_is_reached_and_counted_in_full(case: str) -> None:
    rule, settings, script, key, count = HIGH[case]
    found = script.run(rules=[rule], settings={f"{rule}.{k}": v for k, v in settings.items()}).incidents()
    assert found[-1].evidence[key] == count


AGAIN: dict[str, tuple[str, Script]] = {
    "nine failures of a request": (
        "retry_storm",
        many(9, lambda s, _: s.say("", prompt=Prompt(5, 7, 2, 9), status="error")),
    ),
    "six rounds": ("ping_pong", circle(*"xy" * 6)),
    "one tool nine times": ("tool_loop", many(9, lambda s, _: s.tool("fetch", {"url": "a"}, "page"))),
    "one tool twice": ("tool_loop", many(2, lambda s, _: s.tool("fetch", {"url": "a"}, "page"))),
    "now and then": ("tool_loop", many(8, lambda s, _: s.tool("fetch", {"url": "a"}, "page").wait(200))),
    "one search": ("retrieval_thrash", many(5, lambda s, _: s.retrieve("refund policy", ["a", "b"]))),
    "one text": ("embedding_waste", many(5, lambda s, _: s.embed(["a text"]))),
}
INCIDENTS = {
    **{case: (rule, script) for case, (rule, script, _) in FIRES.items()},
    **{f"many {case}": (rule, script) for case, (rule, _, script, _, _) in HIGH.items()},
    **AGAIN,
}


def then(first: Script, *others: Script) -> Script:
    """One after the other, 700 seconds apart in all: a long time, and not so long that the incident is over."""
    calls = list(first.calls)
    for number, script in enumerate(others):
        after = calls[-1].ended_at + 700 / len(others) - script.calls[0].started_at
        calls += [
            call._replace(id=f"{number}/{call.id}", started_at=call.started_at + after, ended_at=call.ended_at + after)
            for call in script.calls
        ]
    return Script(calls=calls)


def transcribed(channels: int, name: str = "transcribe") -> Script:
    return facts(Script().tool(name, {}, "text"), channels=channels)


LESS_IN_THE_END: dict[str, tuple[str, Script]] = {
    "streams": ("abandoned_stream", then(left(6), left(3))),
    "channels": ("audio_multichannel_doubling", then(transcribed(4), transcribed(2, "hear"))),
    "a shorter beginning": ("cache_miss", then(cached(4), cached(4, carried=9_000))),
    "fewer calls": ("cache_miss", then(cached(6), cached(4))),
    "slower growth": (
        "context_bloat",
        Script(calls=[*growing(9_000).calls, *later(growing(1_600, start=76_000), 100)]),
    ),
    "fewer characters": ("dead_context", then(dead(1, 20_000), dead(1, 9_000))),
    "fewer failures": (
        "error_loop",
        then(many(6, lambda s, _: fails(s)), Script().tool("run_sql", {}, "rows"), many(3, lambda s, _: fails(s))),
    ),
    "fewer handoffs": ("handoff_loop", then(handed(*"ababab"), handed("work"), handed(*"abab"))),
    "a cheaper model": (
        "model_misroute",
        then(
            asked_yes_or_no(1, sent=300, got=1, model="gpt-4"),
            asked_yes_or_no(1, sent=300, got=1),
        ),
    ),
    "fewer messages": ("monologue", then(alone(6), alone(1, role="human"), alone(3))),
    "less thought": ("overthinking", then(thought(3, reasoning=5_000), thought(1))),
    "fewer rounds": ("ping_pong", then(circle(*"xyxyxyxyxy"), Script().tool("get_c", {}, "z"), circle(*"xyxyxy"))),
    "fewer corrections": ("repair_loop", then(corrected(6), corrected(1, role="tool"), corrected(3))),
    "fewer rankings": ("rerank_thrash", then(ranked(5), ranked(2))),
    "fewer repeats": (
        "tool_loop",
        then(
            many(6, lambda s, _: s.tool("fetch", {"url": "a"}, "page")),
            Script().tool("edit_file", {}, "edited"),
            many(3, lambda s, _: s.tool("fetch", {"url": "a"}, "page")),
        ),
    ),
    "fewer uploads": ("vision_re_upload", then(uploaded(6), uploaded(3))),
    "fewer voices": ("voice_switching_loop", then(spoken(*range(5)), spoken(*range(3)))),
    "a shorter time": ("zombie", then(stuck(12, 60), Script().tool("get_page", {"n": 99}, "news"), stuck(6, 60))),
}


@pytest.mark.parametrize("case", LESS_IN_THE_END)
def test_what_explain_offers_silences_all_of_an_incident(case: str) -> None:
    rule, script = LESS_IN_THE_END[case]
    [incident] = script.run(rules=[rule]).incidents()
    assert incident.findings > 1
    for setting, _ in RULES[rule].silencers(incident.evidence, incident.session_id):
        assert script.run(rules=[rule], settings=parse_settings([setting])).incidents() == [], setting


def test_what_several_tools_did_is_offered_to_be_exempted_of_none() -> None:
    _, script = LESS_IN_THE_END["channels"]
    [incident] = script.run(rules=["audio_multichannel_doubling"]).incidents()
    assert (incident.evidence["tool"], incident.evidence["channels"]) == (None, 4)


def test_of_photos_compared_with_one_reference_few_are_remembered() -> None:
    [rule] = build_rules(rule_classes(["vision_re_upload"]), {}, Prices())
    state = rule.new_state()
    for number in range(4 * MAX_IMAGES):
        images = (Image(number, True, 765), Image(-1, True, 765))
        [call] = Script().say("a", prompt=Prompt(number, 7, 2, 80, images=images, image_tokens=1_530)).calls
        assert rule.observe(call, state) is None
    assert len(state) == MAX_IMAGES


@pytest.mark.parametrize("name", ["17", "null", "1e5", "a,b", "[1]", '["a"]', '"q"', "{}", "a b", ""])
def test_names_that_read_like_something_else_can_be_exempted(name: str) -> None:
    script = many(3, lambda s, _: s.tool(name, {"url": "a"}, "page"))
    script.calls = [call._replace(session_id=name) for call in script.calls]
    [incident] = script.run(rules=["tool_loop"]).incidents()
    for setting, _ in RULES["tool_loop"].silencers(incident.evidence, incident.session_id):
        assert script.run(rules=["tool_loop"], settings=parse_settings([setting])).incidents() == [], setting


@pytest.mark.parametrize("case", INCIDENTS)
def test_what_explain_offers_does_silence_it(case: str) -> None:
    rule, script = INCIDENTS[case]
    for incident in script.run(rules=[rule]).incidents():
        offered = [setting for setting, _ in RULES[rule].silencers(incident.evidence, incident.session_id)]
        assert offered[-1] == f"{rule}.enabled=false"
        for setting in offered:
            left_over = script.run(rules=[rule], settings=parse_settings([setting])).incidents()
            assert (incident.session_id, incident.key) not in [(i.session_id, i.key) for i in left_over], setting


EXCUSED: dict[str, tuple[str, str, Script]] = {
    "tests after changes": ("tool_loop", "edit_file", mended(9)),
    "tests that fail after changes": ("error_loop", "edit_file", mended(9, status="error")),
    "searches after changes": (
        "retrieval_thrash",
        "edit_file",
        many(9, lambda s, n: s.tool("edit_file", {"line": n}, "edited").retrieve("todo", ["a"])),
    ),
    "two tests after changes": (
        "ping_pong",
        "edit_file",
        many(
            9,
            lambda s, n: (
                s.tool("edit_file", {"line": n}, "edited").tool("run_tests", {}, "1 failed").tool("get_log", {}, "x")
            ),
        ),
    ),
    "work between handoffs": ("handoff_loop", "look_up", handed("a", "b", "work", "a", "b", "work", "a")),
    "changes for ten minutes": ("zombie", "edit_file", mended(10, seconds=60.0)),
}


@pytest.mark.parametrize("case", EXCUSED)
def test_what_is_exempt_excuses_others_all_the_same(case: str) -> None:
    rule, exempt, script = EXCUSED[case]
    assert script.run(rules=[rule]).incidents() == []
    assert script.run(rules=[rule], settings={f"{rule}.exempt_tools": [exempt]}).incidents() == []


def test_growth_is_put_into_words() -> None:
    script = growing(2_500)
    script.calls = [
        call._replace(prompt=call.prompt._replace(tool_result_chars=call.prompt.chars // 2))
        for call in script.calls
        if call.prompt is not None
    ]
    [incident] = script.run(rules=["context_bloat"]).incidents()
    assert incident.evidence["tool_result_share"] == 0.5
    grew, dead_weight = incident.summary.split("; ")
    assert grew == "The input grew by 2,500 tokens a turn to 50,000, 39% of the context window"
    assert dead_weight == "20% of it is repeated or superseded."


def test_sessions_and_models_are_counted_as_far_as_they_are_known() -> None:
    *_, eighth, ninth = [i.summary for i in sessions("abcdefghi").run(rules=["duplicate_work"]).incidents()]
    assert eighth.endswith(" was sent in 8 sessions.")
    assert ninth.endswith(" was sent in more than 8 sessions.")
    several = then(asked_yes_or_no(2, sent=300, got=1, model="gpt-4"), asked_yes_or_no(1, sent=300, got=1))
    [incident] = several.run(rules=["model_misroute"]).incidents()
    assert incident.summary.startswith("3 classification-shaped requests went to several models, the last of them to ")
    [incident] = asked_yes_or_no(3, sent=300, got=1).run(rules=["model_misroute"]).incidents()
    assert incident.summary.startswith("3 classification-shaped requests went to gpt-4o")


def test_one_is_one() -> None:
    [once] = dead(1, 8_000).run(rules=["dead_context"]).incidents()
    assert "with 1 call, and" in once.summary
    [channels] = FIRES["two channels"][1].run(rules=["audio_multichannel_doubling"]).incidents()
    assert channels.summary.endswith("each of them billed.")


def test_a_storm_is_counted_in_full() -> None:
    [incident] = AGAIN["nine failures of a request"][1].run(rules=["retry_storm"]).incidents()
    assert incident.evidence["requests"] == 9
    assert "failed with an error 9 times in a row" in incident.summary


def test_a_threshold_that_cannot_be_reached_is_refused() -> None:
    for setting, value in (("voice_switching_loop.min_voices", 9), ("ping_pong.min_rounds", 21)):
        with pytest.raises(ConfigurationError, match="less than or equal"):
            Sentinel(settings={setting: value})
    with pytest.raises(ConfigurationError, match=r"context_bloat: .*min_turns \(12\) is more than turns \(10\)"):
        Sentinel(settings={"context_bloat.min_turns": 12})
    Sentinel(settings={"context_bloat.min_turns": 12, "context_bloat.turns": 12})


@pytest.mark.parametrize("case", JUST_NOT)
def test_just_not(case: str) -> None:
    rule, script = JUST_NOT[case]
    assert rule not in [i.rule for i in script.run().incidents()]


def test_what_the_user_asks_again_is_no_loop_of_the_agent() -> None:
    again = many(5, lambda s, _: by_user(s).tool("fetch", {"a": 1}, "same"))
    asked = many(5, lambda s, _: by_user(s).retrieve("opening hours", ["nine to five"]))
    for script in (again, asked):
        [incident] = script.run(rules=["tool_loop", "retrieval_thrash"]).incidents()
        assert (incident.severity, incident.calls) == ("low", 4)
    again.tool("fetch", {"a": 1}, "same").tool("fetch", {"a": 1}, "same")
    assert [i.severity for i in again.run(rules=["tool_loop"]).incidents()] == ["high"]


@pytest.mark.parametrize("script", [mended(9), mended(9, edit="bash"), mended(9, status="error")])
def test_to_test_again_after_a_change_is_no_loop(script: Script) -> None:
    assert script.run(rules=["tool_loop"]).incidents() == []


@pytest.mark.parametrize(
    ("script", "tool", "severity"),
    [
        (mended(4, same=True), "edit_file", "medium"),
        (mended(6, same=True), "edit_file", "medium"),
        (mended(7, same=True), "edit_file", "high"),
        (mended(3, edit="think"), "run_tests", "high"),
        (mended(7, edit="set_seat", same=True, status="error"), "set_seat", "high"),
        (
            many(3, lambda s, n: fails(s, name="set_seat").tool("set_meal", {"n": n}, f"done {n}")),
            "set_seat",
            "high",
        ),
    ],
)
def test_what_was_changed_in_between_excuses_no_other_loop(script: Script, tool: str, severity: str) -> None:
    """The same change again, which may be meant at first; a test without a change; a change that keeps failing."""
    [found] = script.run(rules=["tool_loop"]).incidents()
    assert (found.severity, found.evidence["tool"]) == (severity, tool)


def in_turn(rounds: int, answer: str, *names: str, varied: bool = False) -> Script:
    return many(
        rounds * len(names),
        lambda s, n: s.tool(names[n % len(names)], {"n": n // len(names) if varied else 0}, answer),
    )


def refused(number: int, *, varied: bool, tool: str = "create_user") -> Script:
    return many(
        number,
        lambda s, n: s.tool(tool, {"name": n if varied else 0}, "it exists already", status="error"),
    )


def test_a_tool_call_is_one_try_only_if_code_makes_it_again() -> None:
    """Some models give each of their tool calls the same id."""
    for asked, severities in ((True, ["high"]), (False, [])):
        script = refused(4, varied=False)
        script.calls = [
            c._replace(tool_call_id="call_0", requested_by=c.requested_by if asked or not n else None)
            if c.kind == "tool"
            else c
            for n, c in enumerate(script.calls, start=-1)
        ]
        assert [i.severity for i in script.run(rules=["error_loop"]).incidents()] == severities


def test_patience_follows_the_setting() -> None:
    settings = {"error_loop.min_failures": 10}
    for number, severity in ((79, "medium"), (80, "high")):
        script = refused(number, varied=True, tool="find_person")
        [found] = script.run(
            rules=["error_loop"], settings={**settings, "error_loop.window_seconds": 9_999}
        ).incidents()
        assert found.severity == severity


def mending(number: int, tool: str) -> Script:
    """Something new is noted down before each try."""
    return many(
        number,
        lambda s, n: s.tool("add_note", {"n": n}, "noted").tool(tool, {}, "it does not work", status="error"),
    )


def missing(number: int, of: int) -> Script:
    """So many files are looked for in turn."""
    return many(number, lambda s, n: s.tool("read_file", {"path": f"{n % of}.py"}, "not found", status="error"))


@pytest.mark.parametrize(
    ("script", "severity"),
    [
        (refused(3, varied=False), "high"),
        (refused(3, varied=True), "medium"),
        (refused(5, varied=True), "medium"),
        (refused(11, varied=True), "medium"),
        (refused(12, varied=True), "high"),
        (refused(12, varied=True, tool="find_person"), "medium"),
        (refused(12, varied=True, tool="check_link"), "medium"),
        (missing(5, 4), "medium"),
        (missing(6, 5), "high"),
        (mending(20, "submit_form"), None),
        (mending(27, "submit_form"), "high"),
        (mending(99, "run_tests"), None),
        (refused(23, varied=True, tool="find_person"), "medium"),
        (refused(24, varied=True, tool="find_person"), "high"),
    ],
)
def test_how_severe_failures_are(script: Script, severity: str | None) -> None:
    """Who is given something else each time may just be asked for what is there already."""
    found = script.run(rules=["error_loop"]).incidents()
    assert [i.severity for i in found] == ([severity] if severity else [])


def polled(number: int, name: str = "get_job", said: str = '{"status": "running"}', **more: Any) -> Script:
    return many(number, lambda s, n: s.tool(name, {"id": 1}, said.replace("@", str(n)), seconds=30, **more))


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        (polled(59, pending=True), None),
        (polled(60, pending=True), 1),
        (polled(63, pending=True), 4),
        (polled(99, pending=True, said='{"status": "running", "done": @}'), None),
        (polled(99, pending=True, name="wait_for_job"), None),
        (polled(99, name="ask_user", said="no"), None),
    ],
)
def test_polls_for_ever_are_told_of(script: Script, calls: int | None) -> None:
    found = script.run(rules=["zombie"]).incidents()
    assert [(i.severity, i.calls, i.wasted_input_tokens) for i in found] == (
        [("low", calls, calls * TURN[0])] if calls else []
    )


def test_runs_that_may_take_long_may_poll() -> None:
    script = polled(99, pending=True)
    script.calls = [call._replace(tags=("long-running",)) for call in script.calls]
    assert script.run(rules=["zombie"]).incidents() == []


@pytest.mark.parametrize(("number", "severity"), [(3, "medium"), (23, "medium"), (24, "high")])
def test_how_severe_it_is_to_ask_for_one_after_the_other(number: int, severity: str) -> None:
    """With a word in the place of another it may be another question, to which nothing is found either."""
    services = ["".join(chr(97 + int(digit)) for digit in f"{n:03}") for n in range(number)]
    script = many(
        number,
        lambda s, n: s.tool("search_logs", {"query": f"errors of the {services[n]} service since noon"}, "none " * 40),
    )
    [found] = script.run(rules=["retrieval_thrash"]).incidents()
    assert (found.severity, found.evidence["calls"]) == (severity, number)


def in_vain(number: int, script: Script | None = None) -> Script:
    """Calls of two tools in turn, of which each fails with an error of its own."""
    return many(
        number,
        lambda s, n: s.tool(("read_file", "edit_file")[n % 2], {"n": n}, f"no such file: {n}", status="error"),
        script,
    )


@pytest.mark.parametrize(
    ("script", "failures"),
    [
        (in_vain(8), None),
        (in_vain(9), 9),
        (in_vain(12), 12),
        (in_vain(4, in_vain(5).tool("think", {"thought": "hm"}, "ok")), 9),
        (in_vain(4, in_vain(5).tool("read_file", {"n": 99}, "what is in it")), None),
        (in_vain(4, by_user(in_vain(5))), None),
    ],
)
def test_failures_in_a_row_are_told_of_whatever_they_say(script: Script, failures: int | None) -> None:
    found = script.run(rules=["error_loop"]).incidents()
    assert [(i.severity, i.evidence["failures"]) for i in found] == ([("medium", failures)] if failures else [])
    if failures:
        assert (found[0].calls, found[0].wasted_input_tokens) == (failures - 1, (failures - 1) * TURN[0])


@pytest.mark.parametrize(
    ("script", "severity"),
    [
        (circling(6, 6), "medium"),
        (circling(8, 6), "high"),
        (circling(6, 1), "high"),
        (
            many(6, lambda s, n: s.tool("find_person", {"query": f"who is it that {'did' * n}"}, "-", seconds=60)),
            "medium",
        ),
        (many(7, lambda s, n: s.tool("think", {"thought": f"what if it was {'did' * n}"}, "-", seconds=60)), "medium"),
        (many(6, lambda s, n: s.tool("get_page", {"n": n}, "same", seconds=60, status="error")), "medium"),
        (many(6, lambda s, n: s.tool("save_page", {"n": n}, "same", seconds=60, status="error")), "high"),
        (many(99, lambda s, n: s.tool("get_page", {"n": n}, "same", seconds=4)), "medium"),
        (many(102, lambda s, n: s.tool("get_page", {"n": n}, "same", seconds=3)), "high"),
    ],
)
def test_how_severe_it_is_that_nothing_new_comes(script: Script, severity: str) -> None:
    """Who looks for something else each time, and finds nothing, may just be told so."""
    [found] = script.run(rules=["zombie"]).incidents()
    assert found.severity == severity


@pytest.mark.parametrize(
    ("script", "severity"),
    [
        (in_turn(3, "ok", "turn_on", "turn_off"), "medium"),
        (in_turn(5, "ok", "turn_on", "turn_off"), "medium"),
        (in_turn(6, "ok", "turn_on", "turn_off"), "high"),
        (in_turn(3, "ok", "adelante", "izquierda"), "medium"),
        (in_turn(5, "o" * 60, "adelante", "izquierda"), "medium"),
        (
            in_turn(3, "a long report of what there is, wall after wall, and no door at all", "adelante", "izquierda"),
            "high",
        ),
        (in_turn(3, "ok", "turn_on", "get_state"), "high"),
        (in_turn(5, ">200 cm", "move_forward", "get_distance"), "medium"),
        (in_turn(6, ">200 cm", "move_forward", "get_distance"), "high"),
        (in_turn(11, "ok", "move_forward", "turn_left"), "medium"),
        (in_turn(12, "ok", "move_forward", "turn_left"), "high"),
        (in_turn(9, "no match", "find_customer", "find_lead", varied=True), "medium"),
        (in_turn(3, "no match", "find_customer", "find_lead"), "high"),
        (in_turn(9, "n" * 101, "find_customer", "find_lead", varied=True), "medium"),
        (in_turn(23, "no match", "find_customer", "find_lead", varied=True), "medium"),
        (in_turn(24, "no match", "find_customer", "find_lead", varied=True), "high"),
        (in_turn(3, "n" * 101, "find_customer", "find_lead"), "high"),
    ],
)
def test_how_severe_a_circle_is(script: Script, severity: str) -> None:
    [found] = script.run(rules=["ping_pong"]).incidents()
    assert found.severity == severity


def test_a_new_run_begins_a_new_circle() -> None:
    script = circle(*"xyx")
    script.root_id = "another"
    for answer, name in zip("yxy", "bab", strict=True):
        script.tool(f"tool_{name}", {}, answer)
    assert script.run(rules=["ping_pong"]).incidents() == []


def side_by_side(turns: Sequence[str], *, siblings: int = 2, names: Mapping[str, str] | None = None) -> Script:
    """Turns that ask for several tools at once; each letter is one, told as it ends: its name, and what it answers."""
    script = Script()
    for turn, letters in enumerate(turns):
        script.say("", got=20)
        script.calls[-1] = script.calls[-1]._replace(id=f"turn-{turn}")
        for letter in letters:
            name = (names or {}).get(letter, f"tool_{letter}")
            script.tool(name, {}, letter, asked=False)
            script.calls[-1] = script.calls[-1]._replace(requested_by=f"turn-{turn}", siblings=siblings)
    return script


@pytest.mark.parametrize("turns", list(itertools.product(("xy", "yx"), repeat=4)))
def test_calls_side_by_side_make_the_same_circle_in_whatever_order_they_end(turns: tuple[str, ...]) -> None:
    """Turns that ask for both tools at once; the one that ends first is another one each time."""
    script, sentinel = side_by_side(turns), Sentinel(rules=["ping_pong"])
    at_third = 3 * 3  # a model call and two tools each
    for call in script.calls[: at_third - 1]:
        sentinel.observe(call)
    assert sentinel.incidents() == []  # not before all of the turn have ended
    sentinel.observe(script.calls[at_third - 1])
    [found] = sentinel.incidents()
    assert (found.findings, found.calls, found.evidence["rounds"]) == (1, 4, 3)
    assert (found.wasted_input_tokens, found.wasted_output_tokens) == (2 * 1000, 2 * 20)
    for call in script.calls[at_third:]:
        sentinel.observe(call)
    [found] = sentinel.incidents()
    assert (found.findings, found.calls, found.evidence["rounds"]) == (2, 6, 4)
    assert (found.wasted_input_tokens, found.wasted_output_tokens) == (3 * 1000, 3 * 20)


@pytest.mark.parametrize("turn", ["xyw", "xwy", "wxy"])
def test_what_does_not_count_beside_a_circle_hides_none(turn: str) -> None:
    """A tool that is meant to be called again, and ends last, is no part of the circle and no end of it."""
    script = side_by_side([turn] * 3, siblings=3, names={"w": "wait"})
    [found] = script.run(rules=["ping_pong"]).incidents()
    assert (found.calls, found.evidence["rounds"]) == (4, 3)


def test_turns_that_are_never_whole_leave_nothing_behind() -> None:
    """Of each, one call is never recorded."""
    sentinel = side_by_side(["xy"] * 200, siblings=3).run(rules=["ping_pong"])
    state = sentinel.states()[0].rules["ping_pong"]
    assert len(state.steps) == 6 * 3


def test_the_rules_without_a_case_here_have_exact_ones_in_test_tables() -> None:
    elsewhere = {
        "tool_loop", "retrieval_thrash", "retry_storm", "tool_definition_bloat",
    }  # fmt: skip
    assert {rule for rule, _, _ in FIRES.values()} == set(RULES) - elsewhere
    assert {rule for rule, _ in JUST_NOT.values()} == set(RULES) - elsewhere


def test_which_rules_block_by_default() -> None:
    """In mode `block` the loops do, and nothing that is only expensive."""
    assert {name for name, rule in RULES.items() if rule.Settings().block} == {
        "discarded_output", "error_loop", "handoff_loop", "monologue", "ping_pong", "retrieval_thrash", "retry_storm",
        "tool_loop", "zombie",
    }  # fmt: skip
