-- Streams and jobs, alternating; worker, then the ids of entries. For each: held, lost, cancelled.
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
