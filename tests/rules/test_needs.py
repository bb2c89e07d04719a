"""A rule that needs something of a call loses nothing by not being shown the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts_langchain.call import Call, Feature, Image, Lost, Prompt, ToolCall, Toolset, Usage, features
from ts_langchain.pricing import Prices
from ts_langchain.rules import RULES, build_rules
from ts_langchain.stored import dump_state

if TYPE_CHECKING:
    from ts_langchain.rules.base import Rule

NEEDY = {rule.name: rule for rule in RULES.values() if rule.needs}

THEY_LOOK = {"abandoned_stream", "model_misroute", "vision_high_detail_misroute"}


def plain(**more: Any) -> Call:
    given: dict[str, Any] = {"kind": "model", "prompt": Prompt(1, 2, 3, 4)}
    return Call(id="c", session_id="s", root_id="r", name="n", started_at=1.0, ended_at=2.0, **(given | more))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 0),
        ({"status": "cancelled"}, Feature.CANCELLED),
        ({"status": "error"}, 0),
        ({"lost": Lost("c0", "ValueError", 1.0, 0.5)}, Feature.LOST),
        ({"toolset": Toolset(("a",), (1,), 1)}, Feature.TOOLSET),
        ({"usage": Usage(9, 9, reasoning_tokens=1)}, Feature.REASONING),
        ({"answer_chars": 5}, Feature.WORDS),
        ({"answer_chars": 5, "tool_calls": (ToolCall("i", "n", 1),)}, 0),
        ({"prompt": Prompt(1, 2, 3, 4, images=(Image(1, False, 85),))}, Feature.IMAGES),
        ({"prompt": Prompt(1, 2, 3, 4, image_tokens=85)}, Feature.IMAGES),
        ({"prompt": Prompt(1, 2, 3, 4, classification=True, unused_chars=9)}, Feature.CLASSIFICATION | Feature.UNUSED),
        ({"prompt": None, "answer_chars": 5}, Feature.WORDS),
        ({"kind": "tool", "prompt": None, "traits": (("channels", 2),), "answer_chars": 5}, Feature.TRAITS),
        ({"kind": "tool", "prompt": None, "status": "cancelled"}, Feature.CANCELLED),
    ],
)
def test_features(more: dict[str, Any], expected: int) -> None:
    assert features(plain(**more)) == expected


def test_which_rules_need_something() -> None:
    assert {name: rule.needs for name, rule in NEEDY.items()} == {
        "abandoned_stream": Feature.CANCELLED,
        "audio_multichannel_doubling": Feature.TRAITS,
        "dead_context": Feature.UNUSED,
        "discarded_output": Feature.LOST,
        "model_misroute": Feature.CLASSIFICATION,
        "overthinking": Feature.REASONING,
        "repair_loop": Feature.WORDS,
        "tool_definition_bloat": Feature.TOOLSET,
        "unused_tools": Feature.TOOLSET,
        "vision_cost_concentration": Feature.IMAGES,
        "vision_high_detail_misroute": Feature.IMAGES | Feature.CLASSIFICATION,
        "vision_re_upload": Feature.IMAGES,
        "voice_switching_loop": Feature.TRAITS,
    }


calls = st.builds(
    plain,
    status=st.sampled_from(["ok", "error", "cancelled"]),
    answer=st.integers(0, 3),
    answer_chars=st.sampled_from([0, 5, 900]),
    request=st.integers(0, 3),
    usage=st.builds(Usage, st.integers(0, 90_000), st.integers(0, 9_000), reasoning_tokens=st.sampled_from([0, 5_000])),
    toolset=st.none() | st.builds(Toolset, st.just(("a", "b")), st.just((9_000, 9_000)), st.just(7)),
    tool_calls=st.sampled_from([(), (ToolCall("i", "n", 1),)]),
    prompt=st.builds(
        Prompt,
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(1, 9),
        st.integers(1, 90_000),
        last_role=st.sampled_from(["ai", "human"]),
        classification=st.booleans(),
        images=st.sampled_from([(), (Image(1, True, 765),)]),
        image_tokens=st.sampled_from([0, 765]),
        unused_chars=st.sampled_from([0, 60_000]),
    ),
    model=st.just("gpt-4o"),
    provider=st.just("openai"),
    lost=st.none() | st.builds(Lost, st.just("c"), st.just("ValueError"), st.floats(0, 12), st.just(0.5)),
)


@pytest.mark.parametrize("name", sorted(set(NEEDY) - THEY_LOOK))
@given(made=st.lists(calls, max_size=12))
def test_it_would_not_have_looked_at_the_others(name: str, made: list[Call]) -> None:
    """Shown all calls of its kinds, it finds the same and ends in the same state.

    Three rules rely on not being shown the others and would look at them.
    """
    [asked], [shown] = (build_rules({name: NEEDY[name]}, {}, Prices()) for _ in range(2))
    one, other = asked.new_state(), shown.new_state()

    def told(rule: Rule[Any], call: Call, state: Any) -> object:
        finding = rule.observe(call, state)
        return finding and (finding.key, finding.claims, finding.calls, finding.evidence)

    for number, call in enumerate(made):
        call = call._replace(id=f"c{number}", started_at=float(number), ended_at=number + 0.5)
        everything = told(shown, call, other)
        if asked.needs & ~features(call):
            assert everything is None
        else:
            assert told(asked, call, one) == everything
    assert dump_state(one) == dump_state(other)
