"""Budgets that hold: reserved before a call, settled after it, shared between threads and processes.

A call is let through only if what has been spent, what calls under way have reserved, and its own estimate (input
counted, output bounded by max_tokens) fit together. So calls in flight at the same time cannot overspend together.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import uuid4

from ts_langchain.call import Usage
from ts_langchain.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ts_langchain.call import Call
    from ts_langchain.health import Faults
    from ts_langchain.policy import Budget, Policy
    from ts_langchain.pricing import Cost, Prices

RESERVATION_SECONDS = 900.0
"""A reservation that nobody settles is given back after that long: its process is gone."""

LANGCHAIN_TAGS = ("seq:step:", "map:key:", "branch:", "condition:", "retry:attempt:", "graph:step:", "langsmith:")
"""How the tags begin that LangChain and LangGraph give to the parts of a chain or graph: nobody's budget."""

MAX_ACCOUNTS = 100_000
MAX_UNSETTLED = 10_000
RETRY_SECONDS = 2.0
SETTLE_SECONDS = 0.5
"""As long as a call may take at most to settle what has waited since a store was down."""
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
    """What is to be added to one account.

    Attributes:
        key: The account; begins with the metric.
        limit: What it may hold with this call; None if nothing keeps the call back.
        amount: What is added.
        per_minute: Only this minute counts, and the minute before by its share of the last 60 s.
        seconds: How long the account is kept after its last use; 0 for ever.
    """

    key: str
    limit: int | None
    amount: int
    per_minute: bool
    seconds: float


class Answer(NamedTuple):
    """What a store says to a reservation.

    Attributes:
        refused: Index of the first check that does not fit: nothing was added. None if all was added.
        held: What each account holds with this call, whether or not it was added.
    """

    refused: int | None
    held: list[int]


class Store(Protocol):
    """Where accounts are kept. Each method is atomic, and takes each account once."""

    def reserve(self, reservation: str, checks: Sequence[Check], at: float) -> Answer:
        """Adds all amounts, or none if one of them does not fit."""
        ...

    def settle(self, reservation: str, checks: Sequence[Check], actual: Sequence[int], at: float) -> None:
        """Replaces what was reserved by what was spent. One that raises is told the same once more: it counts once."""
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
        self._lock = threading.RLock()
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def after_fork(self) -> None:
        """Has a lock of its own in a forked process. What was spent before the fork counts in both."""
        self._lock = threading.RLock()

    def _account(self, key: str) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        else:  # never out of the table, where an interrupt or a fork would lose what was spent
            self._accounts.move_to_end(key)
        return account

    def reserve(self, reservation: str, checks: Sequence[Check], at: float) -> Answer:
        minute = int(at // MINUTE)
        with self._lock:
            accounts = [self._account(c.key) for c in checks]
            for account in accounts:
                account.expire(at)
            held = [a.held(c.per_minute, at) + c.amount for c, a in zip(checks, accounts, strict=True)]
            for number, (check, with_it) in enumerate(zip(checks, held, strict=True)):
                if check.limit is not None and with_it > check.limit:
                    return Answer(number, held)
            for check, account in zip(checks, accounts, strict=True):
                account.reserved[reservation] = (check.amount, at + RESERVATION_SECONDS, minute)
                account.add(check.amount, minute)
            return Answer(None, held)

    def settle(self, reservation: str, checks: Sequence[Check], actual: Sequence[int], at: float) -> None:
        with self._lock:
            for check, spent in zip(checks, actual, strict=True):
                account = self._account(check.key)
                amount, _, minute = account.reserved.pop(reservation, (0, 0.0, int(at // MINUTE)))
                account.add(spent - amount, minute)


class Reservation:
    """What a call was let through with. To be taken by one call, and settled once.

    Attributes:
        checks: What was reserved.
        exhausted: Budgets that it did not fit into and that keep no call back: `warn` and `downgrade`.
    """

    __slots__ = ("_taken", "checks", "exhausted", "id", "settled", "store")

    def __init__(self, checks: Sequence[Check]) -> None:
        self.id = uuid4().hex
        self.checks = checks
        self.exhausted: list[Budget] = []
        self.store: Store | None = None
        self.settled = False
        self._taken: dict[None, object] = {}

    def take(self, whose: object) -> bool:
        """True for the first who asks, and whenever he asks again. Atomic."""
        return self._taken.setdefault(None, whose) == whose


class Refusal(NamedTuple):
    """Why a call is not let through.

    Attributes:
        budget: The budget it does not fit into; None if the store of budgets cannot be asked.
        summary: One sentence.
        cheaper: A budget that it does not fit into either, and that asks for a cheaper model: with one it may fit.
    """

    budget: Budget | None
    summary: str
    cheaper: Budget | None = None


class OnWarning(Protocol):
    """Hears that a budget is nearly, or with `do: warn` quite, exhausted."""

    def __call__(self, budget: Budget, request: Request, *, exhausted: bool) -> object: ...


class Budgets:
    """Applies the budgets of a policy.

    Args:
        policy: Whose budgets.
        prices: For estimates.
        faults: Counts what goes wrong.
        store: Where accounts are kept; in memory, or in the policy's Redis.
        on_warning: Told once of each account that reaches `warn_at`, and with `do: warn` of each that is exhausted; of
            rates, once a minute.
        clock: Measures how long an unreachable store is left alone (2 s).
    """

    def __init__(
        self,
        policy: Policy,
        prices: Prices,
        faults: Faults,
        store: Store | None = None,
        on_warning: OnWarning | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.prices = prices
        self.faults = faults
        self._memory = MemoryStore()
        self._store: Store = store if store is not None else self._memory
        self._on_warning = on_warning
        self._clock = clock
        self._warned: Recent[tuple[str, int, int, bool], None] = Recent()
        self._asks_again_at = 0.0
        self._unsettled: deque[tuple[Reservation, list[int], float]] = deque(maxlen=MAX_UNSETTLED)
        self.remote: Callable[[], tuple[Budget, ...]] = tuple

    @property
    def in_force(self) -> tuple[Budget, ...]:
        """The policy's budgets, and those of the remote policy."""
        return (*self.policy.budgets, *self.remote())

    def after_fork(self) -> None:
        """Has locks of its own in a forked process."""
        self._memory.after_fork()

    def reserve(self, request: Request, *, force: bool = False) -> Reservation | Refusal:
        """Lets a request through, or says why not.

        Args:
            request: The request.
            force: Let it through in any case, and count it.
        """
        output = request.max_tokens if request.max_tokens is not None else self.policy.assumed_output_tokens
        tokens = request.input_tokens + output
        rates = self.prices.rates(request.model, request.provider, request.at, request.input_tokens)
        nano = rates.cost(Usage(request.input_tokens, output)).nano if rates else 0
        amounts = {"usd": nano, "tokens": tokens, "calls": 1}
        accounts = _accounts(self.in_force, request, amounts, force=force)
        reservation = Reservation([check for check, _ in accounts])
        if not accounts:
            return reservation
        answer = self._reserve(reservation, request.at, force=force)
        if answer is None:
            return Refusal(None, "The store of budgets cannot be reached: the policy lets nothing through.")
        exhausted = [
            b for (_, bs), held in zip(accounts, answer.held, strict=True) for b in bs if held > b.limit and not b.hard
        ]
        if answer.refused is not None:
            budget = min((b for b in accounts[answer.refused][1] if b.hard), key=lambda b: b.limit)
            return Refusal(budget, overdrawn(budget), next((b for b in exhausted if b.do == "downgrade"), None))
        reservation.exhausted = exhausted
        for (check, budgets), held in zip(accounts, answer.held, strict=True):
            for budget in budgets:
                if held >= budget.warn_at * budget.limit:
                    self._warn(budget, check, request, exhausted=budget.do == "warn" and held > budget.limit)
        return reservation

    def _warn(self, budget: Budget, check: Check, request: Request, *, exhausted: bool) -> None:
        told = check.key, budget.limit, int(request.at // MINUTE) if check.per_minute else 0, exhausted
        if told not in self._warned:
            self._warned[told] = None
            self._warned.limit(MAX_ACCOUNTS)
            if self._on_warning is not None:
                self._on_warning(budget, request, exhausted=exhausted)

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
        if reservation.store in (None, self._memory):
            self._memory.settle(reservation.id, reservation.checks, actual, at)
        if self._store is not self._memory:  # of what was reserved in memory, it may have heard before it went away
            self._keep(reservation, actual, at)
            self._settle_all()

    def _keep(self, reservation: Reservation, actual: list[int], at: float) -> None:
        """Keeps what is to be settled until the store has taken it."""
        if len(self._unsettled) >= MAX_UNSETTLED:
            self.faults.record("budget store: what calls used could not be kept", OverflowError())
        self._unsettled.append((reservation, actual, at))

    def _reserve(self, reservation: Reservation, at: float, *, force: bool) -> Answer | None:
        """The store's answer; that of memory while the store is down, or None where the policy says closed."""
        asked = self._store is not self._memory and self._clock() >= self._asks_again_at
        if asked:
            try:
                answer = self._store.reserve(reservation.id, reservation.checks, at)
            except Exception as error:  # noqa: BLE001 - whatever a client library raises
                self._down(error)
            else:
                reservation.store = self._store
                return answer
        if self._store is self._memory or self.policy.redis_down == "open" or force:
            reservation.store = self._memory
            return self._memory.reserve(reservation.id, reservation.checks, at)
        if asked:  # it may have reserved, and only its answer was lost
            self._keep(reservation, [0] * len(reservation.checks), at)
        return None

    def _settle_all(self) -> None:
        """Settles what waits to be settled, as far as there is time; what the store cannot take stays for later."""
        until = self._clock() + SETTLE_SECONDS
        for _ in range(len(self._unsettled)):
            if not self._asks_again_at <= self._clock() <= until:
                return
            try:
                waiting = self._unsettled.popleft()
            except IndexError:
                return
            reservation, actual, at = waiting
            taken = False
            try:
                self._store.settle(reservation.id, reservation.checks, actual, at)
                taken = True
            except Exception as error:  # noqa: BLE001 - whatever a client library raises
                self._down(error)
            finally:
                if not taken:
                    self._unsettled.append(waiting)

    def _down(self, error: Exception) -> None:
        self.faults.record("budget store", error)
        self._asks_again_at = self._clock() + RETRY_SECONDS


def overdrawn(budget: Budget) -> str:
    """Says that a call does not fit into a budget."""
    return f"The next call does not fit into the budget of {budget.label}."


def _accounts(
    budgets: Sequence[Budget], request: Request, amounts: dict[str, int], *, force: bool
) -> list[tuple[Check, list[Budget]]]:
    """The accounts that a request falls under, each with its budgets; several may look at one account."""
    found: dict[str, tuple[Check, list[Budget]]] = {}
    for budget in budgets:
        for check in _checks(budget, request, amounts):
            known, looking = found.setdefault(check.key, (check, []))
            looking.append(budget)
            limits = [b.limit for b in looking if b.hard and not force]
            found[check.key] = known._replace(limit=min(limits, default=None)), looking
    return list(found.values())


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
        tags = dict.fromkeys(request.tags)
        scopes = [t for t in tags if (budget.tag == t if budget.tag is not None else not t.startswith(LANGCHAIN_TAGS))]
    elif budget.per == "day":
        scopes, seconds = [str(int(request.at // DAY))], 2.0 * DAY
    else:
        scopes = ["-"]
    # without the limit: whoever raises it goes on with what has been spent
    prefix = f"{metric}:{budget.per}:{budget.metric}"
    return [Check(f"{prefix}:{scope}", None, amounts[metric], per_minute, seconds) for scope in scopes]
