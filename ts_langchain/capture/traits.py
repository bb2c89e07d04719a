"""Facts about a call beyond its fingerprint that some rules need. Numbers only, no content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ts_langchain.capture.answers import CHARS_PER_TOKEN
from ts_langchain.fingerprint import name_hash, text_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

_VOICE = ("voice", "voice_id", "voice_name")
_TEXT = ("text", "input", "ssml")
_MULTICHANNEL = ("multichannel", "multi_channel")
MIN_SPEECH_CHARS = 20
"""Shorter lines (`Yes!`) may well be spoken by several."""
_KEYS = frozenset({*_VOICE, *_MULTICHANNEL})


def read_traits(args: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    """The traits of a tool call's arguments.

    Returns:
        `voice` and `speech`, fingerprints of the voice and the text of speech, unless that is short; `channels`, how
        many channels a transcription with `multichannel` bills (2 where it does not say).
    """
    if _KEYS.isdisjoint(args):
        return ()
    found: list[tuple[str, int]] = []
    voice = next((v for k in _VOICE if isinstance(v := args.get(k), str) and v), None)
    text = next((t for k in _TEXT if isinstance(t := args.get(k), str) and t), None)
    if voice is not None and text is not None and len(text) >= MIN_SPEECH_CHARS:
        found += [("voice", name_hash(voice[:200])), ("speech", text_hash(text))]
    if any(args.get(k) is True for k in _MULTICHANNEL):
        channels = args.get("channels")
        found.append(("channels", channels if type(channels) is int and 0 < channels < 1_000 else 2))
    return tuple(found)


def read_declared(metadata: Mapping[str, object] | None) -> tuple[tuple[str, int], ...]:
    """What is declared of the tool itself.

    Returns:
        `read_only`, 1 or 0, of its metadata: `read_only`, or MCP's `readOnlyHint`; nothing if neither is there.
    """
    if not metadata:
        return ()
    declared = metadata.get("read_only")
    if type(declared) is not bool:
        declared = metadata.get("readOnlyHint")
    return (("read_only", int(declared)),) if type(declared) is bool else ()


def read_written(text: str) -> tuple[tuple[str, int], ...]:
    """Of an answer that was left before its end, what came of it.

    Returns:
        `read`, the tokens that its text may have: of scripts other than Latin a character may be one. Nothing where
        four characters are one.
    """
    if text.isascii():
        return ()
    latin = len(text.encode("ascii", "ignore"))
    return (("read", -(-latin // CHARS_PER_TOKEN) + len(text) - latin),)


def trait(traits: tuple[tuple[str, int], ...], name: str) -> int | None:
    """The value of a trait, None without it."""
    return next((value for key, value in traits if key == name), None)
