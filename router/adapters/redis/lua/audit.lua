#!lua
-- audit.lua: add up a page of the log; at the end of the log also answer what it is compared with, in the same step.
-- KEYS[1]  books      hash (see `keys.py`)          KEYS[2]  open    hash (see reserve.lua)
-- KEYS[3]  log        stream (see settle.lua)       KEYS[4]  trimmed hash (see trim.lua)
-- ARGV[1]  entry to begin after, or '0-0'           ARGV[2]  most entries to read
-- ARGV[3]  and on: fields of the books to answer
-- Returns {last entry read, last entry trimmed or '', sums, 0}: there is more to read, or
--         {last entry read, last entry trimmed or '', sums, 1, values of the fields, holds}.
-- sums: bucket ids, added to spent, added to debt, when last, ... nano-USD, ms; holds: held, bucket ids, ...
local page = redis.call('XRANGE', KEYS[3], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
local spent, debt, at, last = {}, {}, {}, ARGV[1]
for _, entry in ipairs(page) do
  local values = {}
  for i = 1, #entry[2], 2 do values[entry[2][i]] = entry[2][i + 1] end
  spent[values.b] = (spent[values.b] or 0) + values.s
  debt[values.b] = (debt[values.b] or 0) + (values.d or 0)
  last = entry[1]
  at[values.b] = tonumber(string.match(last, '^%d+'))
end
local sums = {}
for ids, sum in pairs(spent) do
  local n = #sums
  sums[n + 1], sums[n + 2], sums[n + 3], sums[n + 4] = ids, sum, debt[ids], at[ids]
end
local trimmed = redis.call('HGET', KEYS[4], '@') or ''
if #page == tonumber(ARGV[2]) then return {last, trimmed, sums, 0} end
local holds = {}
for _, hold in ipairs(redis.call('HVALS', KEYS[2])) do
  local held, ids = string.match(hold, '^(%d+)\n%d+\n%d+\n([^\n]*)\n')
  local n = #holds
  holds[n + 1], holds[n + 2] = held, ids
end
local values = #ARGV > 2 and redis.call('HMGET', KEYS[1], unpack(ARGV, 3)) or {}
return {last, trimmed, sums, 1, values, holds}
