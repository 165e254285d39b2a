#!lua flags=allow-oom
-- experience.lua: write what a process has learned in place of what stands there, and drop rows that it has taken over; all or nothing.
-- KEYS[1]  experience   hash: process -> its row
-- ARGV[1]  process     ARGV[2]  its new row     ARGV[3]  its row now, '' if there is none
-- ARGV[4]  another process, then its row now; and so on
-- Returns 1; 0 if a row is another, and nothing was written.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[3] then return 0 end
for i = 4, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 4, #ARGV, 2 do redis.call('HDEL', KEYS[1], ARGV[i]) end
return 1
