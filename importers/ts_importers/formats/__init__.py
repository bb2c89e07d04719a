"""Formats of files, one module each; `--format` names them, or they are recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_importers.formats.bedrock import BedrockLogs
from ts_importers.formats.exchanges import Exchanges
from ts_importers.formats.flat_spans import FlatSpans, OpenInferenceSpans
from ts_importers.formats.helicone import HeliconeRequests
from ts_importers.formats.langfuse import LangfuseObservations
from ts_importers.formats.langsmith import LangSmithRuns
from ts_importers.formats.litellm import LiteLlmLogs
from ts_importers.formats.messages import Conversations
from ts_importers.formats.mlflow import MlflowTraces
from ts_importers.formats.otlp import OtlpSpans

if TYPE_CHECKING:
    from ts_importers.formats.base import Format

_ALL: tuple[Format, ...] = (
    LangSmithRuns(),
    OtlpSpans(),
    OpenInferenceSpans(),
    FlatSpans(),
    MlflowTraces(),
    LiteLlmLogs(),
    BedrockLogs(),
    LangfuseObservations(),
    HeliconeRequests(),
    Exchanges(),
    Conversations(),
)
# in the order in which they are tried
FORMATS: dict[str, Format] = {form.name: form for form in _ALL}
