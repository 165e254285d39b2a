#!lua flags=allow-oom
-- trim.lua: drop the oldest entries of the log; what they added to each bucket is kept as a sum.
-- KEYS[1]  books      hash (see `keys.py`)
-- KEYS[2]  log        stream (see settle.lua)
-- KEYS[3]  trimmed    hash: <bucket id>|s and <bucket id>|d, the sums of dropped entries, nano-USD; @ the last dropped entry
-- ARGV[1]  entries up to this are dropped, ms     ARGV[2]  most entries to drop
-- Returns the number of entries dropped. No sums are kept for buckets that have no counter any more.
-- allow-oom: it makes room.
local page = redis.call('XRANGE', KEYS[2], '-', ARGV[1], 'COUNT', ARGV[2])
if #page == 0 then return 0 end
local sums = {}
for _, entry in ipairs(page) do
  local values = {}
  for i = 1, #entry[2], 2 do values[entry[2][i]] = entry[2][i + 1] end
  for id in string.gmatch(values.b, '[^\t]+') do
    sums[id] = sums[id] or {0, 0}
    sums[id][1] = sums[id][1] + values.s
    sums[id][2] = sums[id][2] + (values.d or 0)
  end
end
for id, sum in pairs(sums) do
  if redis.call('HEXISTS', KEYS[1], id) == 1 then
    redis.call('HINCRBY', KEYS[3], id .. '|s', sum[1])
    redis.call('HINCRBY', KEYS[3], id .. '|d', sum[2] + 0)
  end
end
local last = page[#page][1]
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
redis.call('XTRIM', KEYS[2], 'MINID', ms .. '-' .. string.format('%.0f', seq + 1))
redis.call('HSET', KEYS[3], '@', last)
return #page
