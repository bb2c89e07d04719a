"""Budgets that hold: reserved before a call, settled after it, shared between threads and processes.

A call is let through only if what has been spent, what calls under way have reserved, and its own estimate (input
counted, output bounded by max_tokens) fit together. So calls in flight at the same time cannot overspend together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import uuid4

from ts_langchain.forked import survives_fork
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ts_langchain.call import Call
    from ts_langchain.health import Faults
    from ts_langchain.policy import Budget, Policy
    from ts_langchain.pricing import Cost, Prices

RESERVATION_SECONDS = 900.0
"""A reservation that nobody settles is given back after that long: its process is gone."""

MAX_ACCOUNTS = 100_000
MAX_UNSETTLED = 10_000
RETRY_SECONDS = 2.0
MINUTE = 60.0
DAY = 86_400


class Request(NamedTuple):
    """A model request that asks to be let through.

    Attributes:
        session_id: The conversation.
        root_id: The outermost run.
        at: Seconds since the epoch.
        model: Model asked for, None if unknown.
        provider: Its provider.
        input_tokens: Estimated input.
        max_tokens: Bound on the output, None where the request sets none.
        user_id: The user, None if unknown.
        tags: Tags of the run.
    """

    session_id: str
    root_id: str
    at: float
    model: str | None = None
    provider: str | None = None
    input_tokens: int = 0
    max_tokens: int | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()


class Check(NamedTuple):
    """What is to be added to one account, if it stays within the limit."""

    key: str
    limit: int
    amount: int
    per_minute: bool
    seconds: float
    """How long the account is kept after its last use; 0 for ever."""


class Store(Protocol):
    """Where accounts are kept. Each method is atomic."""

    def reserve(self, reservation: str, checks: Sequence[Check], at: float, *, force: bool) -> list[int] | int:
        """Adds all amounts, or none: then the index of the first check that does not fit.

        Returns:
            What each account holds now, or the index.
        """
        ...

    def settle(self, reservation: str, checks: Sequence[Check], actual: Sequence[int], at: float) -> list[int]:
        """Replaces what was reserved by what was spent. Returns what each account holds now."""
        ...


class _Account:
    __slots__ = ("minutes", "reserved", "used")

    def __init__(self) -> None:
        self.used = 0
        self.minutes: dict[int, int] = {}
        self.reserved: dict[str, tuple[int, float, int]] = {}  # amount, expiry, minute

    def add(self, amount: int, minute: int) -> None:
        self.used += amount
        self.minutes[minute] = self.minutes.get(minute, 0) + amount
        for old in [m for m in self.minutes if m < minute - 1]:
            del self.minutes[old]

    def held(self, per_minute: bool, at: float) -> int:
        """What counts now; per minute, the last 60 s, the minute before weighted by its share of them."""
        if not per_minute:
            return self.used
        minute, seconds = divmod(at, MINUTE)
        before = self.minutes.get(int(minute) - 1, 0)
        return self.minutes.get(int(minute), 0) + round(before * (1 - seconds / MINUTE))

    def expire(self, at: float) -> None:
        for name in [n for n, (_, expiry, _) in self.reserved.items() if expiry < at]:
            amount, _, minute = self.reserved.pop(name)
            self.add(-amount, minute)


class MemoryStore:
    """Accounts of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: Recent[str, _Account] = Recent()
        survives_fork(self)

    def after_fork(self) -> None:
        """Has a lock of its own in a forked process. What was spent before the fork counts in both."""
        self._lock = threading.Lock()

    def _account(self, key: str) -> _Account:
        account = self._accounts.pop(key, None) or _Account()
        self._accounts[key] = account
        self._accounts.limit(MAX_ACCOUNTS)
        return account

    def reserve(self, reservation: str, checks: Sequence[Check], at: float, *, force: bool) -> list[int] | int:
        minute = int(at // MINUTE)
        with self._lock:
            accounts = [self._account(c.key) for c in checks]
            for number, (check, account) in enumerate(zip(checks, accounts, strict=True)):
                account.expire(at)
                if not force and account.held(check.per_minute, at) + check.amount > check.limit:
                    return number
            for check, account in zip(checks, accounts, strict=True):
                account.reserved[reservation] = (check.amount, at + RESERVATION_SECONDS, minute)
                account.add(check.amount, minute)
            return [a.held(c.per_minute, at) for c, a in zip(checks, accounts, strict=True)]

    def settle(self, reservation: str, checks: Sequence[Check], actual: Sequence[int], at: float) -> list[int]:
        with self._lock:
            held = []
            for check, spent in zip(checks, actual, strict=True):
                account = self._account(check.key)
                amount, _, minute = account.reserved.pop(reservation, (0, 0.0, int(at // MINUTE)))
                account.add(spent - amount, minute)
                held.append(account.held(check.per_minute, at))
            return held


class Reservation:
    """What a call was let through with. To be settled once."""

    __slots__ = ("checks", "id", "settled", "store", "taken")

    def __init__(self, checks: Sequence[Check]) -> None:
        self.id = uuid4().hex
        self.checks = checks
        self.store: Store | None = None
        self.settled = False
        self.taken: object = None  # the run id of the call it was made for, once that has begun


class Refusal(NamedTuple):
    """Why a call is not let through.

    Attributes:
        budget: The budget it does not fit into; None if the store of budgets cannot be asked.
        key: Its account.
        summary: One sentence.
    """

    budget: Budget | None
    key: str
    summary: str


class Budgets:
    """Applies the budgets of a policy.

    Args:
        policy: Whose budgets.
        prices: For estimates.
        faults: Counts what goes wrong.
        store: Where accounts are kept; in memory, or in the policy's Redis.
        on_warning: Told once of each account that reaches `warn_at`.
        clock: Measures how long an unreachable store is left alone (2 s).
    """

    def __init__(
        self,
        policy: Policy,
        prices: Prices,
        faults: Faults,
        store: Store | None = None,
        on_warning: Callable[[Budget, str, Request], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.prices = prices
        self.faults = faults
        self._memory = MemoryStore()
        self._store: Store = store if store is not None else self._memory
        self._on_warning = on_warning
        self._clock = clock
        self._warned: Recent[str, None] = Recent()
        self._asks_again_at = 0.0
        self._unsettled: deque[tuple[Reservation, list[int], float]] = deque(maxlen=MAX_UNSETTLED)
        self.remote: Callable[[], tuple[Budget, ...]] = tuple

    def reserve(self, request: Request, *, force: bool = False) -> Reservation | Refusal:
        """Lets a request through, or says why not.

        Args:
            request: The request.
            force: Let it through in any case, and count it.
        """
        output = request.max_tokens if request.max_tokens is not None else self.policy.assumed_output_tokens
        tokens = request.input_tokens + output
        rates = self.prices.rates(request.model, request.provider, request.at, request.input_tokens)
        nano = round((request.input_tokens * rates.input + output * rates.output) * 1000) if rates else 0
        found = [
            (budget, check)
            for budget in (*self.policy.budgets, *self.remote())
            for check in _checks(budget, request, {"usd": nano, "tokens": tokens, "calls": 1})
        ]
        reservation = Reservation([check for _, check in found])
        if not found:
            return reservation
        answer = self._reserve(reservation, request.at, force=force)
        if answer is None:
            return Refusal(None, "", "The store of budgets cannot be reached: the policy lets nothing through.")
        if isinstance(answer, int):
            budget, check = found[answer]
            return Refusal(budget, check.key, f"The next call does not fit into the budget of {budget.label}.")
        for (budget, check), held in zip(found, answer, strict=True):
            if held >= budget.warn_at * check.limit and check.key not in self._warned:
                self._warned[check.key] = None
                self._warned.limit(MAX_ACCOUNTS)
                if self._on_warning is not None:
                    self._on_warning(budget, check.key, request)
        return reservation

    def settle(self, reservation: Reservation, call: Call | None, cost: Cost | None = None) -> None:
        """Replaces the estimate by what the call used; nothing where it was not made. Does nothing the second time."""
        if reservation.settled or not reservation.checks:
            return
        reservation.settled = True
        spent = {"usd": 0, "tokens": 0, "calls": 0}
        at = time.time()
        if call is not None:
            spent = {"usd": cost.nano if cost else 0, "tokens": call.usage.total_tokens, "calls": 1}
            at = call.ended_at
        actual = [spent[check.key.split(":", 1)[0]] for check in reservation.checks]
        if len(self._unsettled) >= MAX_UNSETTLED:
            self.faults.record("budget store: what calls used could not be kept", OverflowError())
        self._unsettled.append((reservation, actual, at))
        self._settle_all()

    def _reserve(self, reservation: Reservation, at: float, *, force: bool) -> list[int] | int | None:
        """The store's answer; that of memory while the store is down, or None where the policy says closed."""
        if self._store is not self._memory and self._clock() >= self._asks_again_at:
            try:
                answer = self._store.reserve(reservation.id, reservation.checks, at, force=force)
            except Exception as error:  # noqa: BLE001 - whatever a client library raises
                self._down(error)
            else:
                reservation.store = self._store
                return answer
        if self._store is self._memory or self.policy.redis_down == "open" or force:
            reservation.store = self._memory
            return self._memory.reserve(reservation.id, reservation.checks, at, force=force)
        return None

    def _settle_all(self) -> None:
        """Settles what waits to be settled; what a store that is down cannot take stays for later."""
        for _ in range(len(self._unsettled)):
            try:
                waiting = self._unsettled.popleft()
            except IndexError:
                return
            reservation, actual, at = waiting
            store = reservation.store or self._memory
            if store is not self._memory and self._clock() < self._asks_again_at:
                self._unsettled.append(waiting)
                continue
            try:
                store.settle(reservation.id, reservation.checks, actual, at)
            except Exception as error:  # noqa: BLE001 - whatever a client library raises
                self._unsettled.append(waiting)
                self._down(error)

    def _down(self, error: Exception) -> None:
        self.faults.record("budget store", error)
        self._asks_again_at = self._clock() + RETRY_SECONDS


def _checks(budget: Budget, request: Request, amounts: dict[str, int]) -> list[Check]:
    """The accounts of a budget that a request falls under. Keys begin with the metric."""
    per_minute = budget.metric == "tokens_per_minute"
    metric = "tokens" if per_minute else budget.metric
    scopes: Sequence[str]
    seconds = 0.0
    if budget.per == "session":
        scopes, seconds = [request.session_id], 30.0 * DAY
    elif budget.per == "run":
        scopes, seconds = [request.root_id], 2.0 * DAY
    elif budget.per == "user":
        scopes = [request.user_id or "-"]
    elif budget.per == "tag":
        scopes = [t for t in request.tags if budget.tag in (None, t)]
    elif budget.per == "day":
        scopes, seconds = [str(int(request.at // DAY))], 2.0 * DAY
    else:
        scopes = ["-"]
    prefix = f"{metric}:{budget.per}:{budget.metric}:{budget.limit}"
    return [Check(f"{prefix}:{scope}", budget.limit, amounts[metric], per_minute, seconds) for scope in scopes]
