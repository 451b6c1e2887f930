#!lua flags=allow-oom
-- A stream, what is set aside, counts; entry, then its fields. Keeps the last hundred.
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XACK', KEYS[1], 'workers', ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', 100, '*', 'stream', KEYS[1], 'entry', ARGV[1],
  unpack(ARGV, 2))
redis.call('HINCRBY', KEYS[3], 'unreadable', 1)
return 1
