"""The atomic operations of the Redis broker, as Lua scripts.

A job is a hash; its content is an entry of its address's stream, read by one consumer group. While
a job has no ``result`` it waits or runs. Scripts use the server's time, so that the clocks of the
machines need not agree.
"""

#: The consumer group of the workers of a stream.
GROUP = "workers"

#: Scripts that end jobs run even when the server's memory is full: they make room.
_ALWAYS = "#!lua flags=allow-oom\n"

_NOW = """
local function now_s()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
"""

#: Job, stream; key, body, digest, seconds left or '', limit, sender's stream.
SUBMIT = (
    _NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'digest', 'result')
if known[1] then
  if known[1] ~= ARGV[3] then return {'other'} end
  if known[2] then return {'ended', known[2]} end
else
  local queued = redis.call('XLEN', KEYS[2])
  if queued >= tonumber(ARGV[5]) then return {'full', queued} end
  local until_s = ''
  if ARGV[4] ~= '' then until_s = string.format('%.6f', now_s() + ARGV[4]) end
  local entry = redis.call('XADD', KEYS[2], '*', 'key', ARGV[1], 'body', ARGV[2],
    'until', until_s)
  redis.call('HSET', KEYS[1], 'digest', ARGV[3], 'stream', KEYS[2], 'entry', entry)
end
redis.call('HSET', KEYS[1], 'to ' .. ARGV[6], '')
return {'kept'}
"""
)

#: Job, counts; key, answer, outcome, seconds to keep it, longest stream of answers.
#: The first caller ends the job; the hash of a job expires after its result is old.
COMPLETE = (
    _ALWAYS
    + """
local job = redis.call('HGETALL', KEYS[1])
local field = {}
for n = 1, #job, 2 do field[job[n]] = job[n + 1] end
if field['result'] or not field['stream'] then return 0 end
redis.call('HSET', KEYS[1], 'result', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('XACK', field['stream'], 'workers', field['entry'])
redis.call('XDEL', field['stream'], field['entry'])
redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
for name, _ in pairs(field) do
  if string.sub(name, 1, 3) == 'to ' then
    local stream = string.sub(name, 4)
    redis.call('XADD', stream, 'MAXLEN', '~', ARGV[5], '*', 'key', ARGV[1], 'result', ARGV[2])
    redis.call('EXPIRE', stream, ARGV[4])
  end
end
return 1
"""
)

#: Job, channel; key.
CANCEL = (
    _ALWAYS
    + """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HEXISTS', KEYS[1], 'result') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
"""
)

#: Workers by expiry, infos; name, info, seconds.
JOIN = (
    _ALWAYS
    + _NOW
    + """
redis.call('ZADD', KEYS[1], now_s() + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
"""
)

#: Workers by expiry, infos. Removes expired workers.
WORKERS = (
    _NOW
    + """
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_s())) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
return redis.call('HGETALL', KEYS[2])
"""
)

#: Streams and jobs, alternating; worker, then the ids of entries. For each: held, lost, cancelled.
RENEW = """
local answers = {}
for n = 1, #KEYS, 2 do
  local entry = ARGV[(n + 1) / 2 + 1]
  local pending = redis.pcall('XPENDING', KEYS[n], 'workers', entry, entry, 1)
  if pending.err or not pending[1] or pending[1][2] ~= ARGV[1] then
    answers[#answers + 1] = 'lost'
  else
    redis.call('XCLAIM', KEYS[n], 'workers', ARGV[1], 0, entry, 'JUSTID')
    if redis.pcall('HEXISTS', KEYS[n + 1], 'cancelled') == 1 then
      answers[#answers + 1] = 'cancelled'
    else
      answers[#answers + 1] = 'held'
    end
  end
end
return answers
"""

#: Streams; worker, count. Returns stream, entry, fields and deliveries of each new job.
TAKE = """
local taken = {}
for _, stream in ipairs(KEYS) do
  local left = ARGV[2] - #taken
  local found = left > 0 and redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[1],
    'COUNT', left, 'STREAMS', stream, '>')
  for _, entry in ipairs(found and found[1][2] or {}) do
    taken[#taken + 1] = {stream, entry[1], entry[2], 1}
  end
end
return taken
"""

#: A stream; worker, idle milliseconds, count. Returns the same for jobs with an expired lease.
#: A call of XAUTOCLAIM looks at ten times its COUNT of pending entries, from the cursor on.
RECLAIM = """
local taken, cursor = {}, '0-0'
repeat
  local claimed = redis.call('XAUTOCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], cursor,
    'COUNT', ARGV[3] - #taken)
  cursor = claimed[1]
  for _, entry in ipairs(claimed[2]) do
    local pending = redis.call('XPENDING', KEYS[1], 'workers', entry[1], entry[1], 1)
    taken[#taken + 1] = {KEYS[1], entry[1], entry[2], pending[1][4]}
  end
until cursor == '0-0' or #taken >= tonumber(ARGV[3])
return taken
"""

#: A stream, what is set aside, counts; entry, then its fields. Keeps the last hundred.
SET_ASIDE = (
    _ALWAYS
    + """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XACK', KEYS[1], 'workers', ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', 100, '*', 'stream', KEYS[1], 'entry', ARGV[1],
  unpack(ARGV, 2))
redis.call('HINCRBY', KEYS[3], 'unreadable', 1)
return 1
"""
)

#: Streams; worker, then ids of entries. Expires the lease at once, and does not count the delivery:
#: the worker did not die of the job.
GIVE_BACK = """
for n = 1, #KEYS do
  local entry = ARGV[n + 1]
  local pending = redis.pcall('XPENDING', KEYS[n], 'workers', entry, entry, 1)
  if not pending.err and pending[1] and pending[1][2] == ARGV[1] then
    redis.call('XCLAIM', KEYS[n], 'workers', ARGV[1], 0, entry,
      'IDLE', 86400000, 'RETRYCOUNT', pending[1][4] - 1, 'JUSTID')
  end
end
"""
