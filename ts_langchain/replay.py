"""History as neutral rows, and their replay through the handler's own hooks in event time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import SourceCost

RunType = Literal["llm", "tool", "retriever", "embedding", "chain"]


@dataclass(slots=True)
class Run:
    """One row of history, in one neutral shape, close to a LangSmith run.

    `inputs` and `outputs` stay as the source recorded them; `ts_langchain.capture.messages` reads messages
    in LangChain's, OpenAI's and Anthropic's shape.

    Attributes:
        id: Unique id of the run.
        run_type: What ran; `chain` stands for everything that is not a call.
        name: Name of the model class, tool or retriever.
        started_at: Seconds since the epoch.
        ended_at: Seconds since the epoch, never before `started_at`.
        trace_id: Id of the outermost run.
        parent_id: Id of the enclosing run.
        thread_id: The conversation; None where the source does not know.
        inputs: Messages, prompts, tool arguments, query or texts.
        outputs: Generations, tool output or documents; None if it failed or was not recorded.
        error: Error text; None if it succeeded.
        tags: Tags.
        metadata: Run metadata (`ls_provider`, `ls_model_name`, `langgraph_node`, ...).
        invocation_params: Model parameters, tools among them.
        usage: LangChain-shaped usage metadata as the source reports it beside the outputs.
        cost: Cost as the source reports it.
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
