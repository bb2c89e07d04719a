"""History as neutral rows, and their replay through the handler's own hooks in event time."""

from __future__ import annotations

import heapq
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ts_langchain.call import NO_USAGE, UNBILLED
from ts_langchain.capture.answers import read_embedding_usage, read_tier
from ts_langchain.capture.context import as_id, session_of
from ts_langchain.capture.embeddings import embedding_call
from ts_langchain.capture.errors import error_name
from ts_langchain.capture.handler import TokenSentinelHandler
from ts_langchain.capture.in_flight import Reported
from ts_langchain.capture.messages import request_messages
from ts_langchain.capture.tools import NOT_RECORDED
from ts_langchain.errors import LedgerError
from ts_langchain.fingerprint import short_id
from ts_langchain.stored import load_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ts_langchain.call import SourceCost
    from ts_langchain.sentinel import Sentinel

RunType = Literal["llm", "tool", "retriever", "embedding", "chain"]
ENCLOSES = 2
"""Of what ends at the same time, a chain ends last."""


@dataclass(slots=True)
class Run:
    """One row of history, in one neutral shape, close to a LangSmith run.

    `inputs` and `outputs` stay as the source recorded them; `ts_langchain.capture` reads messages
    in LangChain's, OpenAI's and Anthropic's shape.

    Attributes:
        id: Unique id of the run.
        run_type: What ran; `chain` stands for everything that is not a call. Of chains those that failed are told.
        name: Name of the model class, tool or retriever.
        started_at: Seconds since the epoch.
        ended_at: Seconds since the epoch, never before `started_at`.
        trace_id: Id of the outermost run.
        parent_id: Id of the enclosing run.
        thread_id: The conversation; None where the source does not know. Then it is the trace, or outside of graphs
            (`langgraph_node`) the one that a model call's prompt goes on from.
        inputs: Messages, prompts, tool arguments, query or texts.
        outputs: Generations, tool output or documents; None if it failed or was not recorded.
        error: Error text; None if it succeeded.
        tags: Tags.
        metadata: Run metadata (`ls_provider`, `ls_model_name`, `langgraph_node`, ...).
        invocation_params: Model parameters, tools among them.
        usage: LangChain-shaped usage metadata as the source reports it beside the outputs.
        cost: Cost as the source reports it.
        tool_call_id: For tools: joins the run with the model's request for it.
        cached: True if a cache of responses answered: nothing was sent to the provider, and nothing billed.
        completions: Of completion models: how many prompts were sent together.
    """

    id: str
    run_type: RunType
    name: str
    started_at: float
    ended_at: float
    trace_id: str
    parent_id: str | None = None
    thread_id: str | None = None
    inputs: Mapping[str, object] = field(default_factory=dict)
    outputs: Mapping[str, object] | None = None
    error: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    invocation_params: Mapping[str, object] = field(default_factory=dict)
    usage: Mapping[str, object] | None = None
    cost: SourceCost | None = None
    tool_call_id: str | None = None
    cached: bool = False
    completions: int = 1

    def __post_init__(self) -> None:
        """Ids of whatever length are kept of each call, and are short."""
        self.id, self.trace_id = short_id(str(self.id)), short_id(str(self.trace_id))
        self.parent_id, self.thread_id = as_id(self.parent_id), as_id(self.thread_id)


class Replay:
    """Feeds runs to a handler's own hooks, in event time.

    Runs go in by start time; starts and ends come out in the order in which they happened, so that the
    handler sees what it would have seen live. Of runs still under way only what has not been delivered is
    held. Runs with equal start times are put into an order of their own, so the order they come in does
    not matter.

    Args:
        sentinel: The `Sentinel` to feed.
        on_delivered: Told the id of each run that has been delivered in full.

    Attributes:
        handler: The handler whose hooks are called.
        late: Runs that came in too late to be put in order; they are replayed all the same.
        faulty: Ids of runs that could not be read in full.
    """

    def __init__(self, sentinel: Sentinel, on_delivered: Callable[[str], object] | None = None) -> None:
        self.sentinel = sentinel
        self._on_delivered = on_delivered
        self.handler = TokenSentinelHandler(sentinel, clock=self._now)
        self.late = 0
        self.faulty: list[str] = []
        self._clock = 0.0
        self._watermark = float("-inf")
        self._tied: list[Run] = []
        self._ends: list[tuple[float, float, int, str, Run]] = []
        self._under_way: dict[str, int] = {}
        # what has begun and not ended, also before an import was resumed: it is fed again, and does not begin twice
        self._begun: set[str] = set()
        # what fails in the end: of no other run does it matter which models answered in it
        self._failing: set[str] = set()

    def _now(self) -> float:
        return self._clock

    # --- feeding -----------------------------------------------------------------------------------

    def feed(self, run: Run, page: int = 0) -> None:
        """Takes the next run in.

        Args:
            run: A run that starts no earlier than the one before.
            page: Number of the page it came on, to know which pages are still needed.
        """
        if run.run_type == "chain" and run.error is None:
            return
        self._under_way[run.id] = page
        if run.error is not None and run.run_type in ("chain", "tool"):
            self._failing.add(run.id)
        tied = self._tied
        if tied and run.started_at == tied[0].started_at:
            tied.append(run)
            return
        if tied and run.started_at < tied[0].started_at:
            if run.started_at >= self._watermark:
                self._end_until(run.started_at)
                self._watermark = run.started_at
            self._start(run)
            self._end_until(self._watermark)
            return
        self._start_tied()
        self._tied = [run]

    def finish(self) -> None:
        """Delivers all that is still under way. To be called when the history has ended."""
        self._start_tied()
        self._end_until(float("inf"))

    def _start_tied(self) -> None:
        if not self._tied:
            return
        tied, self._tied = self._tied, []
        if len(tied) > 1:
            outer = {run.parent_id for run in tied}
            tied.sort(key=lambda run: _rank(run, run.id in outer))
        for run in tied:
            self._end_until(run.started_at)
            self._watermark = run.started_at
            self._start(run)

    def _end_until(self, at: float) -> None:
        ends = self._ends
        while ends and ends[0][0] <= at:
            self._end(heapq.heappop(ends)[-1])

    def _start(self, run: Run) -> None:
        if run.run_type == "chain":  # nothing but its end is told
            heapq.heappush(self._ends, (run.ended_at, -run.started_at, ENCLOSES, run.id, run))
            return
        again = run.id in self._begun
        self._begun.add(run.id)
        if run.started_at < self._watermark and not again:
            self.late += 1
        outermost = run.parent_id not in self.handler.pending()
        heapq.heappush(self._ends, (run.ended_at, -run.started_at, outermost, run.id, run))
        if run.run_type == "embedding" or again:
            return
        faults = self.sentinel.faults.total
        self._clock = run.started_at
        handler, metadata = self.handler, run.metadata
        if run.thread_id is not None and session_of(metadata) is None:
            metadata = {**metadata, "thread_id": run.thread_id}
        outer = run.parent_id or run.id
        handler.adopt(outer, run.trace_id)
        tags = list(run.tags) if run.tags else None
        if run.run_type == "llm":
            messages = request_messages(run.inputs)
            handler.on_chat_model_start(
                None,
                [messages],
                run_id=run.id,
                parent_run_id=run.parent_id,
                tags=tags,
                metadata=metadata,
                invocation_params=run.invocation_params,
                name=run.name,
                completions=run.completions,
            )
        elif run.run_type == "tool":
            handler.on_tool_start(
                None,
                "",
                run_id=run.id,
                parent_run_id=run.parent_id,
                tags=tags,
                metadata=metadata,
                # empty: a tool without parameters, or nothing was recorded of the call
                inputs=run.inputs if run.inputs or run.outputs is not None or run.error is not None else None,
                name=run.name,
                tool_call_id=run.tool_call_id,
            )
        else:
            handler.on_retriever_start(
                None,
                str(run.inputs.get("query", "")),
                run_id=run.id,
                parent_run_id=run.parent_id,
                tags=tags,
                metadata=metadata,
                name=run.name,
            )
        handler.release(outer)
        if self.sentinel.faults.total != faults:
            self.faulty.append(run.id)

    def _end(self, run: Run) -> None:
        faults = self.sentinel.faults.total
        self._clock = run.ended_at
        self._under_way.pop(run.id, None)
        self._begun.discard(run.id)
        self._failing.discard(run.id)
        handler, run_id = self.handler, run.id
        error: Any = run.error
        if run.run_type == "chain":
            handler.on_chain_error(error, run_id=run_id)  # type: ignore[arg-type]
            return
        if run.run_type == "embedding":
            self._embedding(run)
        elif run.run_type == "llm":
            if run.usage is not None or run.cost is not None or run.cached:
                handler.report(run_id, Reported(run.usage, run.cost, run.cached))
            if error is None:
                handler.on_llm_end(run.outputs, run_id=run_id)
            else:
                handler.on_llm_error(error, run_id=run_id, response=run.outputs)
            if run.parent_id not in self._failing:
                self.sentinel.in_flight.answered.pop(run.parent_id, None)
        elif run.run_type == "tool":
            if error is None:
                handler.on_tool_end(NOT_RECORDED if run.outputs is None else run.outputs, run_id=run_id)
            else:
                handler.on_tool_error(error, run_id=run_id)
        elif error is None:
            documents = (run.outputs or {}).get("documents")
            handler.on_retriever_end(documents, run_id=run_id)
        else:
            handler.on_retriever_error(error, run_id=run_id)
        if self.sentinel.faults.total != faults:
            self.faulty.append(run_id)
        if self._on_delivered is not None:
            self._on_delivered(run_id)

    def _embedding(self, run: Run) -> None:
        with self.sentinel.faults.fail_open("replay: embedding"):
            texts = run.inputs.get("texts") or run.inputs.get("input") or run.inputs.get("text") or ()
            if isinstance(texts, str):
                texts = (texts,)
            model = run.metadata.get("ls_model_name") or run.invocation_params.get("model")
            provider = run.metadata.get("ls_provider")
            self.sentinel.observe(
                embedding_call(
                    [t for t in texts if isinstance(t, str)] if isinstance(texts, (list, tuple)) else [],
                    call_id=run.id,
                    session_id=session_of(run.metadata) or as_id(run.thread_id) or run.trace_id,
                    root_id=run.trace_id,
                    name=run.name,
                    model=str(model) if model else None,
                    provider=str(provider) if provider else None,
                    started_at=run.started_at,
                    ended_at=run.ended_at,
                    error=error_name(run.error) if run.error else None,
                    usage=NO_USAGE if run.cached else read_embedding_usage(run.usage),
                    source_cost=UNBILLED if run.cached else run.cost,
                    tier=read_tier(run.outputs or {}),
                    tags=run.tags,
                )
            )

    # --- resuming ----------------------------------------------------------------------------------

    def oldest_page(self) -> int | None:
        """Number of the oldest page with a run not yet delivered; None if all were."""
        return min(self._under_way.values(), default=None)

    def is_under_way(self, run_id: str) -> bool:
        """True if the run was fed and has not been delivered in full."""
        return run_id in self._under_way

    def snapshot(self) -> bytes:
        """What is needed to go on later: calls that have begun, without content."""
        shared = {rule.name: rule.shared for rule in self.sentinel.rules if rule.shared is not None}
        continued = self.sentinel.in_flight.continued.snapshot()
        answered = self.sentinel.in_flight.answered
        held = (self._watermark, self.late, self._begun, self.handler.pending(), shared, continued, answered)
        return pickle.dumps(held, protocol=5)

    def restore(self, snapshot: bytes, *, from_the_beginning: bool = False) -> None:
        """Goes on where `snapshot` was taken. Runs not delivered by then must be fed again.

        Args:
            snapshot: What `snapshot` gave.
            from_the_beginning: Runs may follow that start earlier than those replayed by then, as those of another
                range of the same history do; they are not late.

        Raises:
            LedgerError: It is damaged.
        """
        modules = frozenset(type(rule).__module__ for rule in self.sentinel.rules)
        try:
            watermark, late, begun, pending, shared, continued, answered = load_state(snapshot, modules)
        except (TypeError, ValueError) as error:
            msg = "the checkpoint of this import is damaged; import the history again with --fresh"
            raise LedgerError(msg) from error
        self.late, self._begun = late, begun
        if not from_the_beginning:
            self._watermark = watermark
        for rule in self.sentinel.rules:
            rule.shared = shared.get(rule.name, rule.shared)
        self.handler.resume(pending)
        self.sentinel.in_flight.continued.restore(continued)
        self.sentinel.in_flight.answered.update(answered)


def _rank(run: Run, encloses: bool) -> tuple[int, float, float, str]:
    """Order of runs that start at the same time: what encloses another one, then the shorter prompt, comes first.

    Chains, of which only the end is told, come last: what is in one that takes no time at all ends before it.

    A retriever that ends with a tool is inside it. Model calls enclose only what says so. Of those with prompts of one
    length the first to end comes first: another try follows.
    """
    if run.run_type == "chain":
        return 2, 0.0, 0.0, run.id
    if run.run_type == "llm" and not encloses:
        return 1, len(request_messages(run.inputs)), run.ended_at, run.id
    return 0, -run.ended_at, float(run.run_type != "tool"), run.id
