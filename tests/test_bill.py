"""Who is awarded which part of a bill: to the token and the nano-dollar."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts_langchain.call import Call, Usage
from ts_langchain.incident import Bill, Incident
from ts_langchain.pricing import Cost
from ts_langchain.rules.base import Claim, Finding

BEGIN = 1_000.0


def call(sent: int = 100, got: int = 10, *, at: float = BEGIN, estimated: bool = False) -> Call:
    usage = Usage(sent, got, estimated=estimated)
    return Call("c", "model", "s", "r", "gpt", at, at + 1, "ok", None, "gpt", "openai", usage)


def bill(sent: int = 100, got: int = 10, *, at: float = BEGIN, price: tuple[int, int] | None = (3, 20)) -> Bill:
    """A bill at so many nano-dollars a token."""
    return Bill(call(sent, got, at=at), Cost(sent * price[0], got * price[1]) if price else None)


def incident(rule: str = "tool_loop", opened_at: float = BEGIN + 1, key: int = 1) -> Incident:
    return Incident(f"{rule}-{key}", rule, "s", key, opened_at, opened_at)


def awarded(of: Incident) -> tuple[int, int, int]:
    return of.wasted_input_tokens, of.wasted_output_tokens, of.wasted_nano


def test_a_claim_on_the_whole_call_gets_all_of_it() -> None:
    loop = incident()
    bill().claim(Claim("c"), loop, 50)
    assert awarded(loop) == (100, 10, 500)
    assert (loop.wasted_tokens, loop.wasted_usd, loop.avoidable_usd) == (110, 5e-7, 0.0)
    assert (loop.overlaps, loop.unpriced_calls, loop.estimated) == ((), 0, False)


def test_the_same_claim_counts_once() -> None:
    loop, paid = incident(), bill()
    for _ in range(3):
        paid.claim(Claim("c", input_tokens=30, output_tokens=0), loop, 50)
    assert awarded(loop) == (30, 0, 90)
    assert loop.unpriced_calls == 0


def test_the_more_specific_rule_is_served_first_whenever_it_comes() -> None:
    bloat, loop, paid = incident("context_bloat"), incident(), bill()
    paid.claim(Claim("c", input_tokens=80, output_tokens=0), bloat, 20)
    assert awarded(bloat) == (80, 0, 240)
    paid.claim(Claim("c"), loop, 50)
    assert awarded(loop) == (100, 10, 500)
    assert awarded(bloat) == (0, 0, 0)
    assert (bloat.overlaps, loop.overlaps) == (("tool_loop",), ())


def test_equally_specific_rules_are_served_by_name() -> None:
    for order in permutations(("b", "a")):
        found = {name: incident(name) for name in order}
        paid = bill()
        for name in order:
            paid.claim(Claim("c", input_tokens=70, output_tokens=0), found[name], 50)
        assert (awarded(found["a"]), awarded(found["b"])) == ((70, 0, 210), (30, 0, 90))
        assert found["b"].overlaps == ("a",)


def test_parts_are_other_tokens_and_the_same_part_is_the_same_tokens() -> None:
    tools, more, context = incident("a"), incident("b"), incident("c")
    paid = bill()
    paid.claim(Claim("c", "tools", 30, 0), tools, 30)
    paid.claim(Claim("c", "tools", 40, 0), more, 20)  # 30 of them are the same
    paid.claim(Claim("c", "context", 50, 0), context, 10)
    assert [i.wasted_input_tokens for i in (tools, more, context)] == [30, 10, 50]
    assert [i.overlaps for i in (tools, more, context)] == [(), (), ()]


def test_what_is_carried_along_was_read_from_the_cache_first() -> None:
    """100 tokens, 60 of them read from the cache at 1 nano-dollar each, and 40 sent at 10."""
    usage = Usage(100, 10, cache_read_tokens=60)
    paid = Bill(call()._replace(usage=usage), Cost(460, 20), 60)
    image, tools, context, loop = incident("a"), incident("b"), incident("c"), incident("d")
    paid.claim(Claim("c", "fresh", 10, 0), image, 40)
    assert awarded(image) == (10, 0, 100)
    paid.claim(Claim("c", "tools", 50, 0), tools, 30)
    assert awarded(tools) == (50, 0, 50)
    paid.claim(Claim("c", "context", 20, 0), context, 20)
    assert awarded(context) == (20, 0, 10 + 100)
    paid.claim(Claim("c"), loop, 10)
    assert awarded(loop) == (20, 10, 200 + 20)
    whole = incident()
    Bill(call()._replace(usage=usage), Cost(460, 20), 60).claim(Claim("c", input_tokens=50, output_tokens=0), whole, 50)
    assert awarded(whole) == (50, 0, 230)


def test_no_more_is_wasted_than_was_billed() -> None:
    first, second = incident("a"), incident("b")
    paid = bill()
    paid.claim(Claim("c", "tools", 70, 0), first, 30)
    paid.claim(Claim("c", "context", 70, 0), second, 20)
    assert (first.wasted_input_tokens, second.wasted_input_tokens) == (70, 30)
    assert second.overlaps == ("a",)
    greedy = incident()
    bill().claim(Claim("c", input_tokens=1_000, output_tokens=1_000), greedy, 50)
    assert awarded(greedy) == (100, 10, 500)


def test_a_lower_price_would_have_done() -> None:
    misroute = incident("model_misroute")
    bill(at=BEGIN + 2).claim(Claim("c", rate=0.25), misroute, 50)
    assert awarded(misroute) == (0, 0, 125)
    assert (misroute.avoidable_nano, misroute.avoidable_tokens) == (125, 0)


def test_a_turn_is_waste_once_all_it_asked_for_is() -> None:
    """101 tokens in and 11 out, for two tool calls."""
    one, two, paid = incident(key=1), incident("retry_storm", key=2), bill(101, 11)
    paid.claim(Claim("c", "turn", unit="a", units=2), one, 50)
    assert awarded(one) == (0, 5, 100)
    paid.claim(Claim("c", "turn", unit="b", units=2), two, 50)
    assert awarded(one) == (50, 5, 250)
    assert awarded(two) == (51, 6, 273)
    assert one.overlaps == two.overlaps == ()


def test_one_of_three_tool_calls_is_a_third_of_the_answer() -> None:
    loop, paid = incident(), bill(100, 10)
    paid.claim(Claim("c", "turn", unit="a", units=3), loop, 50)
    paid.claim(Claim("c", "turn", unit="b", units=3), loop, 50)
    assert awarded(loop) == (0, 6, 120)
    paid.claim(Claim("c", "turn", unit="c", units=3), loop, 50)
    assert awarded(loop) == (100, 10, 500)


def test_two_rules_that_see_the_same_tool_call_share_nothing() -> None:
    storm, loop, paid = incident("retry_storm"), incident("tool_loop"), bill()
    paid.claim(Claim("c", "turn", unit="a"), loop, 50)
    paid.claim(Claim("c", "turn", unit="a"), storm, 60)
    assert (awarded(storm), awarded(loop)) == ((100, 10, 500), (0, 0, 0))
    assert (storm.overlaps, loop.overlaps) == ((), ("retry_storm",))


@pytest.mark.parametrize(("begun", "avoidable"), [(-0.5, 0), (0.0, 500), (0.5, 500)])
def test_avoidable_is_what_began_after_the_first_finding(begun: float, avoidable: int) -> None:
    loop = incident(opened_at=BEGIN)
    bill(at=BEGIN + begun).claim(Claim("c"), loop, 50)
    assert (loop.avoidable_nano, loop.avoidable_tokens) == (avoidable, 110 if avoidable else 0)
    assert loop.avoidable_usd == avoidable / 1e9


@pytest.mark.parametrize(("begun", "after"), [(-0.5, 0), (0.0, 500), (0.5, 500)])
def test_what_was_wasted_after_it_was_acted_on(begun: float, after: int) -> None:
    loop = incident()
    loop.acted_at = BEGIN
    bill(at=BEGIN + begun).claim(Claim("c"), loop, 50)
    assert (loop.after_nano, loop.after_tokens) == (after, 110 if after else 0)
    untouched = incident()
    bill().claim(Claim("c"), untouched, 50)
    assert (untouched.after_nano, untouched.after_tokens) == (0, 0)


def test_an_unknown_price_is_counted_as_unknown() -> None:
    loop = incident()
    bill(price=None).claim(Claim("c"), loop, 50)
    bill(price=None).claim(Claim("c"), loop, 50)
    assert awarded(loop) == (200, 20, 0)
    assert loop.unpriced_calls == 2


def test_an_estimate_marks_the_incident() -> None:
    loop = incident()
    Bill(call(estimated=True), None).claim(Claim("c"), loop, 50)
    bill().claim(Claim("c"), loop, 50)
    assert loop.estimated is True


def test_a_severity_is_told_of_when_it_rises() -> None:
    loop = incident()
    told = [
        loop.extend(Finding(1, "", severity=severity, confidence=sure, calls=("x",), seconds=0.5), call(at=at))  # type: ignore[arg-type]
        for severity, sure, at in [("medium", 0.5, 5.0), ("medium", 0.9, 9.0), ("low", 0.2, 7.0), ("high", 0.1, 8.0)]
    ]
    assert told == [True, False, False, True]
    assert (loop.severity, loop.confidence, loop.findings, loop.calls) == ("high", 0.9, 4, 4)
    assert (loop.last_seen_at, loop.wasted_seconds) == (BEGIN + 1, 2.0)
    assert incident().extend(Finding(1, "", severity="low"), call()) is True


def test_it_is_told_of_as_when_it_was_most_severe() -> None:
    loop = incident()
    for severity, summary in [
        ("low", "2 times"),
        ("high", "5 times"),
        ("low", "2 times, after a change"),
        ("medium", "6 times"),
    ]:
        loop.extend(Finding(1, summary, severity=severity), call())  # type: ignore[arg-type]
        assert loop.summary == ("5 times" if "change" in summary else summary)


claims = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([10, 20]),
        st.one_of(
            st.builds(
                lambda part, sent, got: Claim("c", part, sent, got),
                st.sampled_from(["call", "tools", "context", "fresh"]),
                st.none() | st.integers(0, 150),
                st.integers(0, 15),
            ),
            st.builds(lambda unit: Claim("c", "turn", unit=unit, units=3), st.sampled_from(["x", "y", "z"])),
        ),
    ),
    max_size=5,
    unique_by=lambda c: (c[0], c[2].part, c[2].unit),
)


@given(claims, st.randoms(use_true_random=False))
def test_the_order_of_claims_does_not_matter(made: list[tuple[str, int, Claim]], chance: Any) -> None:
    specificity = {rule: level for rule, level, _ in made}

    def settle(order: list[tuple[str, int, Claim]]) -> dict[str, tuple[int, int, int]]:
        found = {rule: incident(rule) for rule in specificity}
        usage = Usage(97, 13, cache_read_tokens=60)
        paid = Bill(call()._replace(usage=usage), Cost(97 * 3, 13 * 20), 60)
        for rule, _, claim in order:
            paid.claim(claim, found[rule], specificity[rule])
        return {rule: awarded(i) for rule, i in found.items()}

    shuffled = list(made)
    chance.shuffle(shuffled)
    whole = settle(made)
    assert settle(shuffled) == whole
    sums = [sum(figures) for figures in zip(*whole.values(), strict=True)] or [0, 0, 0]
    assert sums[0] <= 97
    assert sums[1] <= 13
    assert sums[2] <= 97 * 3 + 13 * 20
    assert all(figure >= 0 for figures in whole.values() for figure in figures)
