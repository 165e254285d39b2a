#!lua flags=allow-oom
-- settle.lua: replace a hold by the charge in every bucket and append the record to the log, or give a hold back.
-- KEYS[1]  open holds, base name; the set of a replica is this name .. replica
-- KEYS[2]  log        stream: r record, a attempt id, o what the store knows better, s d h added to spent and debt, hold, b bucket ids
-- KEYS[3]  index      zset: bucket id -> end of its window, ms
-- KEYS[4..n+3]  counters, one hash per bucket: s spent, h held, d debt    nano-USD
-- KEYS[n+4]     the attempt (see reserve.lua)
-- ARGV[1]  bucket ids, joined by line feeds   ARGV[2]  key prefix of counters
-- ARGV[3]  how long the attempt is remembered, ms    ARGV[4]  how long counters outlive their window, ms
-- ARGV[5..n+4]  end of each window, ms
-- ARGV[n+5]  attempt id    ARGV[n+6]  charge, nano-USD    ARGV[n+7]  '1' to void    ARGV[n+8]  record, JSON
-- Returns 1: the books changed; 0: the attempt had ended before, nothing written.
-- A hold that the store does not know is charged all the same, as debt, and flagged `orphan`; an unknown attempt that is
-- voided is marked, so that a reserve that is still under way holds nothing. After a sweep the difference is booked as
-- `corrected`.
-- allow-oom: money that was spent is booked even if the store is full.
local n = #KEYS - 4
local key = KEYS[n + 4]
local id = ARGV[n + 5]
local charge = tonumber(ARGV[n + 6])
local void = ARGV[n + 7] == '1'
local record = ARGV[n + 8]
local known = redis.call('GET', key)
if known == 'S' or known == 'V' then return 0 end
if not known and void then
  redis.call('SET', key, 'V', 'PX', ARGV[3])
  return 0
end
local ids, keys = ARGV[1], nil
local held, charged, debt, outcome = 0, 0, 0, 'orphan'
if known then
  local h, c, d, owner, m, rest = string.match(known, '^%u\n%d+\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(%d+)\n(.*)$')
  held, charged, debt = tonumber(h), tonumber(c), tonumber(d)
  outcome = string.byte(known) == 88 and 'corrected' or ''
  if charged > 0 then outcome = 'corrected' end
  m = tonumber(m)
  redis.call('SREM', KEYS[1] .. owner, id)
  if m ~= n or (n > 0 and string.sub(rest, 1, #ids + 1) ~= ids .. '\n') then
    -- The caller names other buckets than the hold: the hold's own count.
    local names, at = {}, 1
    keys = {}
    for i = 1, m do
      local stop = string.find(rest, '\n', at, true)
      names[i] = string.sub(rest, at, stop - 1)
      keys[i] = ARGV[2] .. names[i]
      at = stop + 1
    end
    ids = table.concat(names, '\n')
    if void then record = string.sub(rest, at) end
  elseif void then
    record = n > 0 and string.sub(rest, #ids + 2) or rest
  end
else
  local i = 0
  for name in string.gmatch(ids, '[^\n]+') do
    i = i + 1
    if redis.call('EXISTS', KEYS[i + 3]) == 0 then
      redis.call('HSET', KEYS[i + 3], 's', '0', 'h', '0', 'd', '0')
      redis.call('ZADD', KEYS[3], ARGV[i + 4], name)
      if tonumber(ARGV[i + 4]) < 9007199254740991 then
        redis.call('PEXPIREAT', KEYS[i + 3], string.format('%.0f', tonumber(ARGV[i + 4]) + tonumber(ARGV[4])))
      end
    end
  end
end
-- What a step adds to spent + held was never checked against a limit: it is debt. What it takes away pays debt back.
local spent = charge - charged
local growth = spent - held
local owed = growth
if growth <= 0 then owed = -math.min(debt, -growth) end
local s, h, d = string.format('%.0f', spent), string.format('%.0f', -held), string.format('%.0f', owed)
for i = 1, keys and #keys or n do
  local counter = keys and keys[i] or KEYS[i + 3]
  if spent ~= 0 then redis.call('HINCRBY', counter, 's', s) end
  if held ~= 0 then redis.call('HINCRBY', counter, 'h', h) end
  if owed ~= 0 then redis.call('HINCRBY', counter, 'd', d) end
end
redis.call('SET', key, void and 'V' or 'S', 'PX', ARGV[3])
if not void or charged > 0 then
  redis.call('XADD', KEYS[2], '*', 'r', record, 'a', id, 'o', outcome, 's', s, 'd', d, 'h', string.format('%.0f', held), 'b', ids)
end
return 1
