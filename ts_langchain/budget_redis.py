"""Budgets shared between processes through Redis: each step is one Lua script, so it happens whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ts_langchain.budget import MINUTE, RESERVATION_SECONDS, Answer
from ts_langchain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ts_langchain.budget import Check

PREFIX = "ts-langchain:budget:"
TIMEOUT = 0.5
CONNECTIONS = 10_000
"""More threads than any app has; a client that has too few of its own would take Redis for gone."""

# An account is a hash: `used`, `m:<minute>` for the last minutes, `r:<reservation>` = amount|expiry|minute.
# What has been settled is remembered for as long as a reservation is kept: the second time counts nothing.
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
local id, at, minute, expiry = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local answer = {-1}
for i, key in ipairs(KEYS) do
  local limit, amount, per_minute = ARGV[1 + 4 * i], tonumber(ARGV[2 + 4 * i]), ARGV[3 + 4 * i]
  expire(key, at, minute)
  answer[i + 1] = held(key, per_minute, at, minute) + amount
  if answer[1] < 0 and limit ~= '' and answer[i + 1] > tonumber(limit) then answer[1] = i - 1 end
end
if answer[1] >= 0 then return answer end
for i, key in ipairs(KEYS) do
  local amount, seconds = ARGV[2 + 4 * i], tonumber(ARGV[4 + 4 * i])
  redis.call('HSET', key, 'r:' .. id, amount .. '|' .. expiry .. '|' .. minute)
  add(key, amount, minute)
  if seconds > 0 then redis.call('EXPIRE', key, seconds) end
end
return answer
"""
)
_SETTLE = (
    _ACCOUNT
    + """
local id, minute = ARGV[1], tonumber(ARGV[2])
-- the answer to an earlier try may have been lost on its way
if not redis.call('SET', KEYS[#KEYS], 1, 'NX', 'EX', ARGV[3]) then return end
for i = 1, #KEYS - 1 do
  local key = KEYS[i]
  local spent, seconds = tonumber(ARGV[2 + 2 * i]), tonumber(ARGV[3 + 2 * i])
  local reserved = redis.call('HGET', key, 'r:' .. id)
  if reserved then
    local amount, _, when = string.match(reserved, '([^|]+)|([^|]+)|([^|]+)')
    redis.call('HDEL', key, 'r:' .. id)
    add(key, spent - tonumber(amount), when)
  else
    add(key, spent, minute)
  end
  if seconds > 0 then redis.call('EXPIRE', key, seconds) end
end
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
        return redis.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, max_connections=CONNECTIONS
        )
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

    def reserve(self, reservation: str, checks: Sequence[Check], at: float) -> Answer:
        """As `ts_langchain.budget.Store`. Raises what the client raises."""
        args: list[str | int | float] = [reservation, at, int(at // MINUTE), at + RESERVATION_SECONDS]
        for check in checks:
            limit = "" if check.limit is None else check.limit
            args += [limit, check.amount, "1" if check.per_minute else "0", int(check.seconds)]
        refused, *held = cast("list[int]", self._reserve(keys=[PREFIX + c.key for c in checks], args=args))
        return Answer(refused if refused >= 0 else None, held)

    def settle(self, reservation: str, checks: Sequence[Check], actual: Sequence[int], at: float) -> None:
        """As `ts_langchain.budget.Store`. Raises what the client raises."""
        args: list[str | int | float] = [reservation, int(at // MINUTE), int(RESERVATION_SECONDS)]
        for check, spent in zip(checks, actual, strict=True):
            args += [spent, int(check.seconds)]
        settled = f"{PREFIX}settled:{reservation}"
        self._settle(keys=[*(PREFIX + c.key for c in checks), settled], args=args)
