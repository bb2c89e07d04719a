"""Writes the files beside it: exports of Langfuse as its database, ClickHouse, writes them.

    pip install chdb && PYTHONPATH=tests python tests/data/langfuse_export/record.py

chdb is ClickHouse within Python. The tables have the columns and types that Langfuse's migrations make and its exports
select (August 2026); what is in them are the observations that its LangChain handler records of a few conversations.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from chdb import session
from importers.export_history import HISTORY

HERE = Path(__file__).parent
PROJECT = "cmexport0001"
WINDOW = "2026-09-01T08-00-00-000Z"
# as Langfuse asks for Parquet
SETTINGS = (
    "output_format_parquet_row_group_size = 1000000, output_format_parquet_row_group_size_bytes = 134217728,"
    " output_format_parquet_batch_size = 16, output_format_parquet_max_dictionary_size = 0"
)
COMMON = {
    "id": "String", "trace_id": "String", "project_id": "String", "environment": "LowCardinality(String)",
    "type": "LowCardinality(String)", "metadata": "Map(String, String)", "level": "LowCardinality(String)",
    "usage_details": "Map(LowCardinality(String), UInt64)",
    "cost_details": "Map(LowCardinality(String), Decimal(18, 12))",
    "tool_calls": "Array(String)", "tool_call_names": "Array(String)", "tool_definitions": "Map(String, String)",
    "usage_pricing_tier_name": "Nullable(String)", "prompt_version": "Nullable(UInt16)",
}  # fmt: skip
TEXTS = (
    "parent_observation_id", "name", "status_message", "version", "input", "output", "provided_model_name",
    "model_parameters", "prompt_name", "prompt_id", "model_id",
)  # fmt: skip
ENRICHED = {
    **COMMON,
    **dict.fromkeys((*TEXTS, "user_id", "session_id", "trace_name", "release"), "String"),
    "start_time": "DateTime64(6)", "end_time": "Nullable(DateTime64(6))",
    "completion_start_time": "Nullable(DateTime64(6))", "created_at": "DateTime64(6)", "updated_at": "DateTime64(6)",
    "total_cost": "Decimal(18, 12)", "latency": "Nullable(Float64)", "tags": "Array(String)", "bookmarked": "Bool",
    "public": "Bool", "is_root_observation": "Bool", "usage_pricing_tier_id": "Nullable(String)",
}  # fmt: skip
LEGACY = {
    **COMMON,
    **dict.fromkeys(TEXTS, "Nullable(String)"), "name": "String",
    "start_time": "DateTime64(3)", "end_time": "Nullable(DateTime64(3))",
    "completion_start_time": "Nullable(DateTime64(3))", "created_at": "DateTime64(3)", "updated_at": "DateTime64(3)",
    "total_cost": "Nullable(Decimal(18, 12))", "latency": "Nullable(Float64)",
}  # fmt: skip
TRACES = {
    "id": "String", "timestamp": "DateTime64(3)", "name": "String", "environment": "LowCardinality(String)",
    "project_id": "String", "metadata": "Map(LowCardinality(String), String)", "user_id": "Nullable(String)",
    "session_id": "Nullable(String)", "tags": "Array(String)", "public": "Bool", "bookmarked": "Bool",
    "input": "Nullable(String)", "output": "Nullable(String)",
}  # fmt: skip
SCORES = {
    "id": "String", "timestamp": "DateTime64(3)", "project_id": "String", "trace_id": "Nullable(String)",
    "observation_id": "Nullable(String)", "name": "String", "value": "Float64", "source": "String",
    "data_type": "String",
}  # fmt: skip


def columns_of(row: dict[str, Any]) -> dict[str, Any]:
    """An observation as the database keeps it."""
    cost = row.get("costDetails") or {}
    return {
        "id": row["id"],
        "trace_id": row["traceId"],
        "project_id": PROJECT,
        "environment": row["environment"],
        "prompt_name": row.get("promptName") or "",
        "prompt_version": row.get("promptVersion"),
        "type": row["type"],
        "parent_observation_id": row.get("parentObservationId") or "",
        "start_time": row["startTime"].replace("T", " ").rstrip("Z"),
        "end_time": row["endTime"].replace("T", " ").rstrip("Z"),
        "name": row["name"],
        "metadata": row["metadata"],
        "level": row["level"],
        "status_message": row["statusMessage"] or "",
        "input": row["input"],
        "output": row["output"] or "",
        "provided_model_name": row.get("model") or "",
        "model_parameters": row.get("modelParameters") or "",
        "usage_details": row.get("usageDetails") or {},
        "cost_details": cost,
        "total_cost": cost.get("total", 0),
        "tool_definitions": row.get("toolDefinitions") or {},
        "session_id": row["sessionId"],
        "user_id": "ada",
        "tags": ["exported"],
        "created_at": "2026-09-02 00:00:00",
        "updated_at": "2026-09-02 00:00:00",
    }


def main() -> None:
    """Writes the files."""
    db = session.Session()
    rows = [columns_of(row) for row in HISTORY]
    traces = {row["trace_id"]: {**row, "id": row["trace_id"], "timestamp": row["start_time"]} for row in rows}
    score = {"id": "s1", "timestamp": rows[0]["start_time"], "trace_id": rows[0]["trace_id"], "name": "helpful"}
    for folder, columns, content, forms in (
        ("enriched/observations_v2", ENRICHED, rows, ("parquet", "jsonl.gz")),
        ("enriched/scores", SCORES, [score], ("parquet", "jsonl.gz")),
        ("legacy/observations", LEGACY, rows, ("parquet", "jsonl.gz")),
        ("legacy/traces", TRACES, list(traces.values()), ("parquet", "jsonl.gz")),
    ):
        described = ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
        text = "\n".join(json.dumps({n: v for n, v in row.items() if n in columns}) for row in content)
        db.query("DROP TABLE IF EXISTS t")
        db.query(f"CREATE TABLE t ({described}) ENGINE = Memory")
        db.query(f"INSERT INTO t FORMAT JSONEachRow {text}")
        place = HERE / folder
        place.mkdir(parents=True, exist_ok=True)
        for form in forms:
            kind = "Parquet" if form == "parquet" else "JSONEachRow"
            settings = SETTINGS if form == "parquet" else "output_format_json_quote_64bit_integers = 1"
            found = db.query(f"SELECT * FROM t ORDER BY cityHash64(id) SETTINGS {settings}", kind)  # noqa: S608
            data = found.bytes()
            (place / f"{WINDOW}.{form}").write_bytes(gzip.compress(data, mtime=0) if form.endswith(".gz") else data)


if __name__ == "__main__":
    main()
