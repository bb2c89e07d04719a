"""What a rule of your own must keep to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ts_langchain.call import Call
from ts_langchain.sentinel import Sentinel
from ts_langchain.stored import dump_state, load_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ts_langchain.rules.base import Rule

MAX_STATE_BYTES = 16_384
MANY_CALLS = 3_000


def check_rule(
    rule: type[Rule[Any]],
    *,
    fires: Sequence[Sequence[Call]],
    healthy: Sequence[Sequence[Call]],
    settings: Mapping[str, object] | None = None,
) -> None:
    """Checks that a rule of your own behaves as rules must.

    It fires on each session of `fires` and on none of `healthy`; its waste stays below the bill; its state survives
    being stored in the middle of a session with the same outcome; it stays small over thousands of calls; and calls
    that lack something, or everything, do not break it.

    Args:
        rule: The rule's class.
        fires: Sessions, as calls in the order in which they ended, that it must report.
        healthy: Sessions it must leave alone.
        settings: `rule.param` to value.

    Raises:
        AssertionError: It does not; the message says in what.

    Example:
        >>> from ts_langchain.rules.tool_loop import ToolLoop
        >>> from ts_langchain.fingerprint import arguments
        >>> def fetch(n, answer):
        ...     return Call(f"c{n}", "tool", "s", "r", "fetch", 1.8e9 + n, 1.8e9 + n, answer=answer,
        ...                 arguments=arguments({"url": "a"}))
        >>> check_rule(ToolLoop, fires=[[fetch(n, 7) for n in range(3)]], healthy=[[fetch(n, n + 1) for n in range(3)]])
    """

    def found(calls: Sequence[Call], stored: bool = False) -> list[tuple[Any, ...]]:
        sentinel = Sentinel(rules=[rule], settings=settings)
        for number, call in enumerate(calls):
            if stored and number == len(calls) // 2:
                for state in sentinel.states():
                    state.rules = load_state(dump_state(state.rules), frozenset({rule.__module__}))
            sentinel.observe(call)
        faults = sentinel.health().faults
        assert not faults, f"{rule.name} raised: {dict(faults)}"
        for session in {c.session_id for c in calls}:
            totals, wasted = sentinel.totals(session), sum(i.wasted_nano for i in sentinel.incidents(session))
            assert totals is None or wasted <= totals.nano, f"{rule.name} says more was wasted than was billed"
        return [(i.id, i.severity, i.findings, i.calls, i.wasted_tokens) for i in sentinel.incidents()]

    for attribute in ("name", "specificity", "kinds", "suggestion"):
        assert hasattr(rule, attribute), f"{rule.__name__} has no {attribute}"
    assert isinstance(rule.needs, int), f"needs of {rule.name} is {rule.needs!r}, not a Feature"
    for number, calls in enumerate(fires):
        assert found(calls), f"{rule.name} does not fire on session {number} of fires"
        assert found(calls) == found(calls, stored=True), f"{rule.name} forgets something when its state is stored"
    for number, calls in enumerate(healthy):
        assert not found(calls), f"{rule.name} fires on session {number} of healthy"
    given = [call for calls in (*fires, *healthy) for call in calls]
    sentinel = Sentinel(rules=[rule], settings=settings)
    for n in range(MANY_CALLS if given else 0):
        call, at = given[n % len(given)], 1.8e9 + n
        call = call._replace(id=f"many-{n}", session_id="one", request=call.request + n, answer=call.answer + n)
        sentinel.observe(call._replace(started_at=at, ended_at=at))
    sizes = [len(dump_state(s.rules)) for s in sentinel.states()]
    assert max(sizes, default=0) <= MAX_STATE_BYTES, f"{rule.name} keeps {max(sizes):,} bytes: its state is not bounded"
    for calls in (*fires, *healthy):
        for field, default in Call._field_defaults.items():
            found([call._replace(**{field: default}) for call in calls])
    found([Call(f"empty-{kind}", kind, "s", "r", "", 1.0, 1.0) for kind in sorted(rule.kinds)])
