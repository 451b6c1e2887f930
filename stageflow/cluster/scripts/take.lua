-- Streams; worker, count. Returns stream, entry, fields and deliveries of each new job.
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
