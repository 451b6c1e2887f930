-- States, channel; provider, state, seconds to stay open, name of the sender.
local time = redis.call('TIME')
local until_s = string.format('%.6f', time[1] + time[2] / 1000000 + ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({ARGV[2], until_s, ARGV[4]}))
redis.call('EXPIRE', KEYS[1], 86400)
redis.call('PUBLISH', KEYS[2], cjson.encode({ARGV[1], ARGV[2], ARGV[3], ARGV[4]}))
