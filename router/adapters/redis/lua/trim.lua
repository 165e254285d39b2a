#!lua flags=allow-oom
-- trim.lua: drop the oldest entries of the log; what they added to each bucket is kept as a sum.
-- KEYS[1]  books      hash (see `keys.py`)
-- KEYS[2]  log        stream (see settle.lua)
-- KEYS[3]  trimmed    hash: <bucket id>|s and <bucket id>|d, the sums of dropped entries, in the unit; @ the last dropped entry
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
    local unit = string.match(id, '~(%l)$')
    local spent, debt = values.s, values.d
    if unit then
      spent, debt = 0, 0
      if unit == 't' then spent, debt = values.t, values.u elseif unit == 'r' then spent, debt = values.n, values.m end
    end
    sums[id] = sums[id] or {0, 0}
    sums[id][1] = sums[id][1] + (spent or 0)
    sums[id][2] = sums[id][2] + (debt or 0)
  end
end
for id, sum in pairs(sums) do
  -- The id of a rolling window or of a session may come again after it was dropped: its sums are kept until they are zero.
  local again = string.find(id, '|last-', 1, true) or (string.find(id, 'session=', 1, true) and string.find(id, '|all', 1, true))
  if again or redis.call('HEXISTS', KEYS[1], id) == 1 then
    for i, field in ipairs({id .. '|s', id .. '|d'}) do
      if redis.call('HINCRBY', KEYS[3], field, string.format('%.0f', sum[i])) == 0 and again then redis.call('HDEL', KEYS[3], field) end
    end
  end
end
local last = page[#page][1]
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
redis.call('XTRIM', KEYS[2], 'MINID', ms .. '-' .. string.format('%.0f', seq + 1))
redis.call('HSET', KEYS[3], '@', last)
return #page
