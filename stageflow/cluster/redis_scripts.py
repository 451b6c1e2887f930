"""What the Redis broker does in one step, as Lua: each script happens wholly or not at all.

A turn is a hash, its content an entry of its address's stream, read by one group of consumers.
While a turn has no ``result`` it waits or runs. Time is the server's, so that no two machines need
agree about theirs.
"""

#: The group of consumers that all workers of a stream belong to.
GROUP = "workers"

#: What ends turns goes on when the server's memory is full: only that makes room.
_ALWAYS = "#!lua flags=allow-oom\n"

_NOW = """
local function now_s()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
"""

#: Turn, stream; key, body, digest, seconds left or '', limit, sender's stream.
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

#: Turn, counts; key, answer, outcome, seconds to keep it, longest stream of answers.
#: Whoever comes first ends the turn; the hash of one that ended long ago is gone.
SETTLE = (
    _ALWAYS
    + """
local turn = redis.call('HGETALL', KEYS[1])
local field = {}
for n = 1, #turn, 2 do field[turn[n]] = turn[n + 1] end
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

#: Turn, channel; key.
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

#: Workers by the end of their time, their cards; name, card, seconds.
JOIN = (
    _ALWAYS
    + _NOW
    + """
redis.call('ZADD', KEYS[1], now_s() + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
"""
)

#: Workers by the end of their time, their cards. Forgets those whose time is over.
CARDS = (
    _NOW
    + """
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_s())) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
return redis.call('HGETALL', KEYS[2])
"""
)

#: Streams and turns in turn; worker, then the ids of entries. For each: held, lost, cancelled.
RENEW = """
local answers = {}
for n = 1, #KEYS, 2 do
  local entry = ARGV[(n + 1) / 2 + 1]
  local pending = redis.pcall('XPENDING', KEYS[n], 'workers', entry, entry, 1)
  if pending.err or not pending[1] or pending[1][2] ~= ARGV[1] then
    answers[#answers + 1] = 'lost'
  else
    redis.call('XCLAIM', KEYS[n], 'workers', ARGV[1], 0, entry, 'JUSTID')
    if redis.call('HEXISTS', KEYS[n + 1], 'cancelled') == 1 then
      answers[#answers + 1] = 'cancelled'
    else
      answers[#answers + 1] = 'held'
    end
  end
end
return answers
"""

#: Streams; worker, count. What nobody has: for each its stream, entry, fields and deliveries.
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

#: A stream; worker, idle milliseconds, count. The same of what has been silent.
TAKE_OVER = """
local claimed = redis.call('XAUTOCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], '0-0',
  'COUNT', ARGV[3])
local taken = {}
for _, entry in ipairs(claimed[2]) do
  local pending = redis.call('XPENDING', KEYS[1], 'workers', entry[1], entry[1], 1)
  taken[#taken + 1] = {KEYS[1], entry[1], entry[2], pending[1][4]}
end
return taken
"""

#: Streams; worker, then ids of entries. As if the worker had been silent for a day, and had never
#: taken them: what it has given back it did not die of.
GIVE_BACK = """
for n = 1, #KEYS do
  local entry = ARGV[n + 1]
  local pending = redis.call('XPENDING', KEYS[n], 'workers', entry, entry, 1)
  if pending[1] and pending[1][2] == ARGV[1] then
    redis.call('XCLAIM', KEYS[n], 'workers', ARGV[1], 0, entry,
      'IDLE', 86400000, 'RETRYCOUNT', pending[1][4] - 1, 'JUSTID')
  end
end
"""
