#!lua
-- mark.lua: note once, over all replicas, that something is told.
-- KEYS[1]  alerts:marks     hash: name -> until when it is not told again, ms
-- KEYS[2]  alerts:pending   hash: name -> the event, until it is delivered
-- ARGV[1]  name   ARGV[2]  how long to remember it, ms   ARGV[3]  the event; empty if there is nothing to deliver
-- Returns 1 if it was noted now, 0 if it was noted before and that is still in force.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
if until_ms > now then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', now + ARGV[2]))
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
end
return 1
