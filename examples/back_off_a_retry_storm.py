"""An app that hammers a flaky provider: the policy waits, longer each time, and the provider recovers."""

from __future__ import annotations

import time

from langchain_core.messages import AIMessage

from ts_langchain import Sentinel, guard_model
from ts_langchain.testing import ScriptedChatModel

POLICY = {
    "rules": {"retry_storm": {"steps": [{"at": 1, "do": "backoff"}]}},
    "backoff": {"base_seconds": 0.2, "max_seconds": 1.0},
}


class Flaky(ScriptedChatModel):
    """Fails while it is asked more often than twice in 0.15 seconds."""

    def _generate(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        now = time.monotonic()
        times = [t for t in self.metadata["times"] if now - t < 0.15]  # type: ignore[index]
        self.metadata["times"] = [*times, now]  # type: ignore[index]
        if len(times) >= 2:
            self._next(args[0])  # type: ignore[arg-type]
            msg = "rate limited"
            raise ConnectionError(msg)
        return super()._generate(*args, **kwargs)  # type: ignore[arg-type]


def main() -> None:
    """Retries at once, as a careless app does, first without the guard and then with it."""
    for guarded in (False, True):
        model = Flaky(script=[AIMessage("here you are")], metadata={"times": [time.monotonic()] * 3})
        sentinel = Sentinel(policy=POLICY)
        caller = guard_model(model, sentinel) if guarded else model
        answer = None
        with sentinel.session("nightly-job"):
            for attempt in range(1, 41):  # noqa: B007 - told below
                try:
                    answer = caller.invoke("summarise the day")
                    break
                except ConnectionError:
                    time.sleep(0.01)
        print(f"{'guarded' if guarded else 'careless':9} {attempt:2} attempts, {'answered' if answer else 'gave up'}")
        for decision in sentinel.decisions():
            print(f"  {decision.action} {decision.outcome}: {decision.summary}")


if __name__ == "__main__":
    main()
