"""Budgets shared between processes through Redis: each step is one Lua script, so it happens whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ts_langchain.budget import MINUTE, RESERVATION_SECONDS
from ts_langchain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ts_langchain.budget import Check

PREFIX = "ts-langchain:budget:"
TIMEOUT = 0.5

# An account is a hash: `used`, `m:<minute>` for the last minutes, `r:<reservation>` = amount|expiry|minute.
_ACCOUNT = """
local function add(key, amount, minute)
  redis.call('HINCRBY', key, 'used', amount)
  redis.call('HINCRBY', key, 'm:' .. minute, amount)
end
local function expire(key, at, minute)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if string.sub(name, 1, 2) == 'r:' then
      local amount, expiry, when = string.match(value, '([^|]+)|([^|]+)|([^|]+)')
      if tonumber(expiry) < at then
        redis.call('HDEL', key, name)
        add(key, -tonumber(amount), when)
      end
    elseif string.sub(name, 1, 2) == 'm:' and tonumber(string.sub(name, 3)) < minute - 1 then
      redis.call('HDEL', key, name)
    end
  end
end
local function held(key, per_minute, at, minute)
  if per_minute == '0' then return tonumber(redis.call('HGET', key, 'used') or '0') end
  local now = tonumber(redis.call('HGET', key, 'm:' .. minute) or '0')
  local before = tonumber(redis.call('HGET', key, 'm:' .. (minute - 1)) or '0')
  return now + math.floor(before * (1 - (at - minute * 60) / 60) + 0.5)
end
"""
_RESERVE = (
    _ACCOUNT
    + """
local id, at, minute, expiry, force = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
for i, key in ipairs(KEYS) do
  local limit, amount, per_minute = tonumber(ARGV[2 + 4 * i]), tonumber(ARGV[3 + 4 * i]), ARGV[4 + 4 * i]
  expire(key, at, minute)
  if force == '0' and held(key, per_minute, at, minute) + amount > limit then return {-1, i - 1} end
end
local answer = {0}
for i, key in ipairs(KEYS) do
  local amount, per_minute, seconds = ARGV[3 + 4 * i], ARGV[4 + 4 * i], tonumber(ARGV[5 + 4 * i])
  redis.call('HSET', key, 'r:' .. id, amount .. '|' .. expiry .. '|' .. minute)
  add(key, amount, minute)
  if seconds > 0 then redis.call('EXPIRE', key, seconds) end
  answer[#answer + 1] = held(key, per_minute, at, minute)
end
return answer
"""
)
_SETTLE = (
    _ACCOUNT
    + """
local id, at, minute = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {0}
for i, key in ipairs(KEYS) do
  local spent, per_minute = tonumber(ARGV[2 + 2 * i]), ARGV[3 + 2 * i]
  local reserved = redis.call('HGET', key, 'r:' .. id)
  if reserved then
    local amount, _, when = string.match(reserved, '([^|]+)|([^|]+)|([^|]+)')
    redis.call('HDEL', key, 'r:' .. id)
    add(key, spent - tonumber(amount), when)
  else
    add(key, spent, minute)
  end
  answer[#answer + 1] = held(key, per_minute, at, minute)
end
return answer
"""
)


def connect(url: str) -> Any:
    """A client of a Redis; it connects on first use.

    Raises:
        ConfigurationError: The package `redis` is missing, or the URL is none.
    """
    try:
        import redis
    except ImportError:
        msg = "redis_url needs the package redis: pip install 'ts-langchain[redis]'"
        raise ConfigurationError(msg) from None
    try:
        return redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    except ValueError:
        msg = "redis_url is no URL; expected redis://host:6379/0 or rediss://…"
        raise ConfigurationError(msg) from None


class RedisStore:
    """Accounts in a Redis.

    Args:
        url: `redis://host:6379/0`.

    Raises:
        ConfigurationError: The package `redis` is missing, or the URL is none.
    """

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._reserve = self._client.register_script(_RESERVE)
        self._settle = self._client.register_script(_SETTLE)

    def reserve(self, reservation: str, checks: Sequence[Check], at: float, *, force: bool) -> list[int] | int:
        """As `ts_langchain.budget.Store`. Raises what the client raises."""
        args: list[str | int | float] = [
            reservation, at, int(at // MINUTE), at + RESERVATION_SECONDS, "1" if force else "0",
        ]  # fmt: skip
        for check in checks:
            args += [check.limit, check.amount, "1" if check.per_minute else "0", int(check.seconds)]
        answer = cast("list[int]", self._reserve(keys=[PREFIX + c.key for c in checks], args=args))
        return int(answer[1]) if int(answer[0]) < 0 else [int(n) for n in answer[1:]]

    def settle(self, reservation: str, checks: Sequence[Check], actual: Sequence[int], at: float) -> list[int]:
        """As `ts_langchain.budget.Store`. Raises what the client raises."""
        args: list[str | int | float] = [reservation, at, int(at // MINUTE)]
        for check, spent in zip(checks, actual, strict=True):
            args += [spent, "1" if check.per_minute else "0"]
        answer = cast("list[int]", self._settle(keys=[PREFIX + c.key for c in checks], args=args))
        return [int(n) for n in answer[1:]]
