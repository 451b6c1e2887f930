#!lua flags=allow-oom
-- Workers by expiry, infos; name, info, seconds.
local function now_s()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

redis.call('ZADD', KEYS[1], now_s() + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
