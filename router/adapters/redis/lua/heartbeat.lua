#!lua flags=allow-oom
-- heartbeat.lua: renew the lease of a replica and store how much of its holds is burnt.
-- KEYS[1]  leases     zset: replica -> end of its lease, ms
-- KEYS[2]  progress of this replica, hash: attempt key -> nano-USD
-- KEYS[3]  books      hash (see `keys.py`)
-- KEYS[4]  ledger id  string, written if there is none
-- ARGV[1]  replica    ARGV[2]  length of the lease from now, ms; negative: it ends now
-- ARGV[3]  field of the lease in the books
-- ARGV[4]  an id for a ledger that has none
-- ARGV[5..]  attempt key, nano-USD burnt, ...
-- Returns the id of the ledger: another one after it was emptied or replaced. What an earlier heartbeat said of an attempt that is not named any more is dropped.
local t = redis.call('TIME')
local ends = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2]
redis.call('ZADD', KEYS[1], ends, ARGV[1])
-- A small hash is kept as a list and searched from its begin; one with a field of more than 64 bytes is not.
redis.call('HSET', KEYS[3], ARGV[3], ends, '||' .. string.rep('-', 64), '')
redis.call('DEL', KEYS[2])
for i = 5, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('SET', KEYS[4], ARGV[4], 'NX')
return redis.call('GET', KEYS[4])
