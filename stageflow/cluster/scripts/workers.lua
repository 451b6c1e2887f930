-- Workers by expiry, infos. Removes expired workers.
local function now_s()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_s())) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
return redis.call('HGETALL', KEYS[2])
