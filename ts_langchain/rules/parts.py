"""What parts of a request take of its input: providers bill a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ts_langchain.call import Call, Image

CHARS_PER_TOKEN = 4


def input_of(call: Call, chars: int, tools: int = 0, image_tokens: int = 0) -> int:
    """Tokens of the input that part of a request took, beside its other messages, tool definitions, images and audio.

    What is in it that nobody can measure (a document, a video) is not told apart: so a token is a character at least.

    Args:
        call: The model call.
        chars: Characters of its messages.
        tools: Bytes of its tool definitions.
        image_tokens: Estimated tokens of its images.
    """
    prompt, usage = call.prompt, call.usage
    if prompt is None:
        return 0
    sent = prompt.chars + CHARS_PER_TOKEN * prompt.image_tokens
    if call.toolset is not None:
        sent += call.toolset.total_bytes
    part = min(sent, chars + tools + CHARS_PER_TOKEN * image_tokens)
    tokens = max(0, usage.input_tokens - usage.input_audio_tokens)
    return min(part, tokens * part // sent) if sent else 0


def image_of(call: Call, image: Image) -> int:
    """Tokens of the input that one of its images took: as estimated, and no more than its share of what was billed."""
    return min(image.tokens, input_of(call, 0, image_tokens=image.tokens))
