"""What a human was asked by a process that is gone, read from the checkpoint.

What was decided lives in memory. People answer hours later, and another worker, or the same one started anew, hears
it: without the question it would not know that it was asked, and send what the answer says not to send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ts_langchain.intervene.actions import PAUSE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

# LangGraph's own keys in `configurable`
CHECKPOINTER = "__pregel_checkpointer"
RESUMING = "__pregel_resuming"
SCRATCHPAD = "__pregel_scratchpad"


class Kept(NamedTuple):
    """Where the checkpoint is that a task was interrupted in.

    Attributes:
        task: The task, as in `Here`.
        saver: Keeps the checkpoint.
        config: Names it.
    """

    task: str
    saver: BaseCheckpointSaver[Any]
    config: RunnableConfig


def kept(config: Mapping[str, Any]) -> Kept | None:
    """The checkpoint with the question whose answer this task goes on with; None if it goes on with none.

    Of several questions in one task a checkpoint keeps the last one only: then it is None, too.
    """
    configured = config.get("configurable") or {}
    saver: Any = configured.get(CHECKPOINTER)  # or a bool
    pad, task = configured.get(SCRATCHPAD), configured.get("checkpoint_ns")
    if configured.get(RESUMING) is not True or not hasattr(saver, "get_tuple") or pad is None or not task:
        return None
    if len(pad.resume) + (pad.get_null_resume(False) is not None) != 1:
        return None
    graph = task.rpartition("|")[0]
    named = {"thread_id": configured.get("thread_id"), "checkpoint_ns": graph}
    at = (configured.get("checkpoint_map") or {}).get(graph)
    return Kept(task, saver, {"configurable": named if at is None else {**named, "checkpoint_id": at}})


def question_in(found: CheckpointTuple | None, task: str) -> Mapping[str, Any] | None:
    """What a `pause` asked in this task, None if it did not."""
    for whose, channel, asked in (found.pending_writes or ()) if found is not None else ():
        if channel == "__interrupt__" and whose == task.rpartition(":")[2]:
            for one in asked:
                if isinstance(one.value, dict) and one.value.get("type") == PAUSE:
                    return one.value
    return None
