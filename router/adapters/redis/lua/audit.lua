#!lua
-- audit.lua: add up a page of the log; at the end of the log also answer what it is compared with, in the same step.
-- KEYS[1]  books      hash (see `keys.py`)          KEYS[2]  open    hash (see reserve.lua)
-- KEYS[3]  log        stream (see settle.lua)       KEYS[4]  trimmed hash (see trim.lua)
-- ARGV[1]  entry to begin after, or '0-0'           ARGV[2]  most entries to read
-- ARGV[3]  and on: fields of the books to answer
-- Returns {last entry read, last entry trimmed or '', sums, 0}: there is more to read, or
--         {last entry read, last entry trimmed or '', sums, 1, values of the fields, holds}.
-- sums: bucket ids, added to spent and debt, to tokens spent and owed, to calls spent and owed, when last, ... nano-USD, ms
-- holds: held, bucket ids, what is held in other units (see units.lua), ...
local page = redis.call('XRANGE', KEYS[3], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
local added, at, last = {}, {}, ARGV[1]
local names = {'s', 'd', 't', 'u', 'n', 'm'}
for _, entry in ipairs(page) do
  local values = {}
  for i = 1, #entry[2], 2 do values[entry[2][i]] = entry[2][i + 1] end
  local sum = added[values.b] or {0, 0, 0, 0, 0, 0}
  for i, name in ipairs(names) do
    if values[name] then sum[i] = sum[i] + values[name] end
  end
  added[values.b] = sum
  last = entry[1]
  at[values.b] = tonumber(string.match(last, '^%d+'))
end
local sums = {}
for ids, sum in pairs(added) do
  sums[#sums + 1] = ids
  for i = 1, 6 do sums[#sums + 1] = sum[i] end
  sums[#sums + 1] = at[ids]
end
local trimmed = redis.call('HGET', KEYS[4], '@') or ''
if #page == tonumber(ARGV[2]) then return {last, trimmed, sums, 0} end
local holds = {}
for _, hold in ipairs(redis.call('HVALS', KEYS[2])) do
  local held, ids, units = string.match(hold, '^(%d+)\n%d+\n%d+\n([^\n]*)\n([^\n]*)\n')
  local n = #holds
  holds[n + 1], holds[n + 2], holds[n + 3] = held, ids, units
end
local values = #ARGV > 2 and redis.call('HMGET', KEYS[1], unpack(ARGV, 3)) or {}
return {last, trimmed, sums, 1, values, holds}
