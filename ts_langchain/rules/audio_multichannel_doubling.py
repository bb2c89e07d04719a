"""`audio_multichannel_doubling`: every channel of a recording is transcribed, and billed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ts_langchain.call import Feature
from ts_langchain.capture.traits import trait
from ts_langchain.rules.base import Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind


class AudioMultichannelDoubling(Rule["list[int]"]):
    """Transcriptions with `multichannel` on bill each channel as if it were a recording of its own.

    Fires at the `min_calls`-th tool call of a session whose arguments switch `multichannel` on for at least
    `min_channels` channels.

    Does not fire on: recordings of one channel; `multichannel` off; tools that do not say.

    Wasted: nothing is claimed in tokens: transcription is billed by the minute, on a bill that a LangChain app does
    not see. The incident shows calls and seconds.
    """

    name = "audio_multichannel_doubling"
    specificity = 30
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool"})
    needs = Feature.TRAITS
    suggestion = "Mix the recording down to one channel and use diarisation, unless channels must be told apart."
    thresholds: ClassVar[Mapping[str, str]] = {"min_channels": "channels"}

    class Settings(RuleSettings):
        """Settings of audio_multichannel_doubling."""

        min_calls: int = Field(1, ge=1, description="Such calls in a session.")
        min_channels: int = Field(2, ge=2, description="Channels billed.")

    settings: Settings

    def new_state(self) -> list[int]:
        return [0]

    def observe(self, call: Call, state: list[int]) -> Finding | None:
        channels = trait(call.traits, "channels")
        if channels is None or channels < self.settings.min_channels or call.status != "ok":
            return None
        state[0] += 1
        if state[0] < self.settings.min_calls:
            return None
        return Finding(
            0,
            f"{call.name} transcribed {channels} channels of a recording, each of them billed"
            + (f"; {state[0]} calls like this." if state[0] > 1 else "."),
            calls=(call.id,),
            seconds=(call.ended_at - call.started_at) * (channels - 1) / channels,
            severity="low",
            confidence=0.7,
            evidence={"tool": call.name, "channels": channels, "calls": state[0]},
        )
