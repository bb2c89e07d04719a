"""Reading images out of messages, and what they cost in tokens."""

from __future__ import annotations

from collections.abc import Mapping

from ts_langchain.call import Image
from ts_langchain.fingerprint import text_hash

IMAGE_KINDS = frozenset({"image_url", "input_image", "image", "media", "file"})
# Typical sizes: OpenAI bills 85 tokens in low detail and 765 for a 1024 x 1024 image in high detail; Anthropic
# bills width x height / 750, 1 398 for the same image. Both from the providers' vision guides.
LOW_DETAIL_TOKENS = 85
HIGH_DETAIL_TOKENS = 765
ANTHROPIC_IMAGE_TOKENS = 1_398
IMAGE_SAMPLE = 16_384


def read_image(block: Mapping[str, object]) -> Image | None:
    """An image block in OpenAI's, Anthropic's, Google's or LangChain's shape; None if it is something else."""
    mime = block.get("mime_type") or block.get("media_type")
    if block.get("type") in ("media", "file") and not (isinstance(mime, str) and mime.startswith("image/")):
        return None
    inner = block.get("image_url")
    detail = block.get("detail")
    if isinstance(inner, Mapping):
        detail = inner.get("detail") or detail
        inner = inner.get("url")
    tokens = HIGH_DETAIL_TOKENS
    if inner is None:
        source = block.get("source")
        if isinstance(source, Mapping):
            inner, tokens = source.get("data") or source.get("url") or source.get("file_id"), ANTHROPIC_IMAGE_TOKENS
        else:
            keys = ("url", "base64", "data", "file_id", "file_uri", "id")
            inner = next((block[k] for k in keys if block.get(k)), None)
    if isinstance(inner, (bytes, bytearray)):
        inner = inner.hex() if len(inner) <= IMAGE_SAMPLE else inner[:IMAGE_SAMPLE].hex() + str(len(inner))
    if not isinstance(inner, str):
        return None
    if len(inner) > 2 * IMAGE_SAMPLE:  # encoded images begin alike: both ends count, and the length
        inner = f"{inner[:IMAGE_SAMPLE]}{inner[-IMAGE_SAMPLE:]}{len(inner)}"
    high = detail != "low"
    return Image(text_hash(inner), high, tokens if high else LOW_DETAIL_TOKENS)
