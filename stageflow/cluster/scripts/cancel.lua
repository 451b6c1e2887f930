#!lua flags=allow-oom
-- Job, channel; key.
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HEXISTS', KEYS[1], 'result') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
