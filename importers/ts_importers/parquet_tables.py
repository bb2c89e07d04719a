"""The tables that services export as Parquet: their columns, and how a row of one is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ts_importers.langfuse_rows import from_export, run_from_observation
from ts_importers.langsmith_rows import run_from_row
from ts_importers.values import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ts_importers.base import Skipped
    from ts_langchain.replay import Run


class Table(NamedTuple):
    """A kind of export. All have `id`, `start_time` and `end_time`.

    Attributes:
        title: What people call it.
        needed: Columns that it is known by.
        texts: Columns that hold text.
        nested: Columns that hold lists or mappings, or them as JSON.
        counts: Columns that hold whole numbers.
        costs: Columns that hold dollars.
        projects: Columns that say which project a row belongs to.
        wanted: Columns without which less is found.
        chosen_by: What in the service chooses columns.
        read: Reads a row.
    """

    title: str
    needed: tuple[str, ...]
    texts: tuple[str, ...]
    nested: tuple[str, ...]
    counts: tuple[str, ...]
    costs: tuple[str, ...]
    projects: tuple[str, ...]
    wanted: tuple[str, ...]
    chosen_by: str
    read: Callable[[dict[str, Any]], Run | Skipped | None]


def _unpacked(row: dict[str, Any], table: Table) -> dict[str, Any]:
    """A row whose nested values are no longer JSON; what is none is left out."""
    for name in table.nested:
        value = row.get(name)
        if isinstance(value, str) and value[:1] in ("{", "["):
            try:
                row[name] = loads(value)
            except ValueError:
                row[name] = None
    return row


def _read_langsmith(row: dict[str, Any]) -> Run | Skipped | None:
    return run_from_row(_unpacked(row, LANGSMITH))


def _read_langfuse(row: dict[str, Any]) -> Run | Skipped | None:
    return run_from_observation(from_export(_unpacked(row, LANGFUSE)))


LANGSMITH = Table(
    title="LangSmith bulk export",
    needed=("id", "run_type", "start_time"),
    texts=(
        "name", "run_type", "trace_id", "parent_run_id", "thread_id", "status", "error", "ls_model_name",
    ),
    nested=("inputs", "outputs", "extra", "tags", "parent_run_ids", "prompt_token_details", "completion_token_details"),
    counts=("prompt_tokens", "completion_tokens"),
    costs=("prompt_cost", "completion_cost", "total_cost"),
    projects=("session_id", "session_name", "project_name"),
    wanted=("inputs", "outputs", "extra"),
    chosen_by="export_fields",
    read=_read_langsmith,
)  # fmt: skip
LANGFUSE = Table(
    title="Langfuse blob storage export",
    needed=("id", "type", "start_time", "trace_id"),
    texts=(
        "type", "trace_id", "parent_observation_id", "name", "level", "status_message", "input", "output",
        "provided_model_name", "model_parameters", "session_id", "user_id", "environment", "prompt_name",
    ),
    nested=("metadata", "usage_details", "cost_details", "tags", "tool_definitions"),
    counts=("prompt_version",),
    costs=("total_cost",),
    projects=("project_id",),
    wanted=("name", "level", "input", "output", "metadata", "provided_model_name", "usage_details"),
    chosen_by="its field groups",
    read=_read_langfuse,
)  # fmt: skip
TABLES = (LANGSMITH, LANGFUSE)


def table_of(columns: Collection[str]) -> Table | None:
    """The kind of export with these columns, None if it is none."""
    return next((table for table in TABLES if all(name in columns for name in table.needed)), None)
