-- Job, stream; key, body, digest, seconds left or '', limit, sender's stream.
local function now_s()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

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
