#!lua flags=allow-oom
-- Job, counts; key, answer, outcome, seconds to keep it, longest stream of answers.
-- The first caller ends the job; the hash of a job expires after its result is old.
local job = redis.call('HGETALL', KEYS[1])
local field = {}
for n = 1, #job, 2 do field[job[n]] = job[n + 1] end
if field['result'] or not field['stream'] then return 0 end
-- First what makes room: after that, version 6.2 accepts the rest even if its memory is full.
redis.call('XACK', field['stream'], 'workers', field['entry'])
redis.call('XDEL', field['stream'], field['entry'])
redis.call('HSET', KEYS[1], 'result', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
for name, _ in pairs(field) do
  if string.sub(name, 1, 3) == 'to ' then
    local stream = string.sub(name, 4)
    redis.call('XADD', stream, 'MAXLEN', '~', ARGV[5], '*', 'key', ARGV[1], 'result', ARGV[2])
    redis.call('EXPIRE', stream, ARGV[4])
  end
end
return 1
