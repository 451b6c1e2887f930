-- A stream; worker, idle milliseconds, count. Returns the same for jobs with an expired lease.
-- A call of XAUTOCLAIM looks at ten times its COUNT of pending entries, from the cursor on.
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
