#!lua flags=allow-oom
-- heartbeat.lua: renew the lease of a replica and store how much of its holds is burnt.
-- KEYS[1]  leases     zset: replica -> end of its lease, ms
-- KEYS[2]  progress of this replica, hash: attempt id -> nano-USD
-- ARGV[1]  replica    ARGV[2]  length of the lease from now, ms; negative: it ends now
-- ARGV[3..]  attempt id, nano-USD burnt, ...
-- Returns 1. What an earlier heartbeat said of an attempt that is not named any more is dropped.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
redis.call('DEL', KEYS[2])
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
