-- Streams; worker, then ids of entries. Expires the lease at once, and does not count the delivery:
-- the worker did not die of the job.
for n = 1, #KEYS do
  local entry = ARGV[n + 1]
  local pending = redis.pcall('XPENDING', KEYS[n], 'workers', entry, entry, 1)
  if not pending.err and pending[1] and pending[1][2] == ARGV[1] then
    redis.call('XCLAIM', KEYS[n], 'workers', ARGV[1], 0, entry,
      'IDLE', 86400000, 'RETRYCOUNT', pending[1][4] - 1, 'JUSTID')
  end
end
