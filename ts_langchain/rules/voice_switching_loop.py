"""`voice_switching_loop`: the same text is spoken with one voice after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from ts_langchain.call import Feature
from ts_langchain.capture.traits import trait
from ts_langchain.recent import Recent
from ts_langchain.rules.base import Claim, Finding, Rule, RuleSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts_langchain.call import Call, Kind

MAX_TEXTS = 4
MAX_VOICES = 8


class Spoken:
    """Voices in which one text was spoken."""

    __slots__ = ("at", "unclaimed", "voices")

    def __init__(self) -> None:
        self.at = 0.0
        self.voices: list[int] = []
        self.unclaimed: list[tuple[str, str | None, str, int, float]] = []


class VoiceSwitchingLoop(Rule["Recent[int, Spoken]"]):
    """Speech is made of the same text again and again, each time with another voice.

    Fires at the `min_voices`-th different voice for the same text in a session, each within `window_seconds` of
    event time of the one before.

    Does not fire on: different texts; lines and samples of less than 20 characters; one voice (`tool_loop` sees that);
    voices tried far apart.

    Wasted: the turns that asked for the second and later voices.
    """

    name = "voice_switching_loop"
    specificity = 46
    kinds: ClassVar[frozenset[Kind]] = frozenset({"tool"})
    needs = Feature.TRAITS
    suggestion = "Choose the voice once; try voices on a short sample."
    thresholds: ClassVar[Mapping[str, str]] = {"min_voices": "voices"}

    class Settings(RuleSettings):
        """Settings of voice_switching_loop."""

        min_voices: int = Field(3, ge=2, le=MAX_VOICES, description="Different voices for one text.")
        window_seconds: PositiveFloat = Field(60, description="Event time between one and the next.")

    settings: Settings

    def new_state(self) -> Recent[int, Spoken]:
        return Recent()

    def shrink(self, state: Recent[int, Spoken]) -> None:
        state.clear()

    def observe(self, call: Call, state: Recent[int, Spoken]) -> Finding | None:
        speech, voice = trait(call.traits, "speech"), trait(call.traits, "voice")
        if speech is None or voice is None or call.status != "ok":
            return None
        spoken = state.pop(speech, None)
        if spoken is None or call.started_at - spoken.at > self.settings.window_seconds:
            spoken = Spoken()
        state[speech] = spoken
        state.limit(MAX_TEXTS)
        spoken.at = call.ended_at
        if voice in spoken.voices:
            return None
        if spoken.voices:
            unit = call.tool_call_id or call.id
            took = call.ended_at - call.started_at
            spoken.unclaimed.append((call.id, call.requested_by, unit, call.siblings, took))
        spoken.voices.append(voice)
        del spoken.voices[:-MAX_VOICES], spoken.unclaimed[:-MAX_VOICES]
        if len(spoken.voices) < self.settings.min_voices:
            return None
        unclaimed, spoken.unclaimed = spoken.unclaimed, []
        return Finding(
            speech,
            f"{call.name} spoke the same text with {len(spoken.voices)} voices.",
            claims=tuple(Claim(r, "turn", unit=unit, units=units) for _, r, unit, units, _ in unclaimed if r),
            calls=tuple(u[0] for u in unclaimed),
            seconds=sum(u[4] for u in unclaimed),
            severity="medium",
            confidence=0.9,
            evidence={"tool": call.name, "voices": len(spoken.voices)},
        )
