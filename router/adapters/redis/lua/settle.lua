#!lua flags=allow-oom
-- settle.lua: replace a hold by the charge in every bucket and append the record to the log, or give a hold back.
-- KEYS[1]  books      hash (see `keys.py`)          KEYS[2]  open    hash (see reserve.lua)
-- KEYS[3]  index      zset: bucket id -> end of its window, ms
-- KEYS[4]  log        stream: r record, a attempt key, b bucket ids, s added to spent, h taken from held; where they say
--                     something, d added to debt and o what the store knows better; where other units are counted, t and u
--                     added to tokens spent and owed, n and m the same of calls
-- KEYS[5]  attempt    (see reserve.lua)
-- ARGV[1]  charge, nano-USD      ARGV[2]  record, JSON     ARGV[3]  '1' to void; then u and how many buckets are plain, if not
--          all: the charge is then followed by a space and the tokens, none if they are unknown
-- ARGV[4]  bucket ids, joined by tabs                      ARGV[5]  how long the attempt is remembered, ms
-- ARGV[6]  per bucket: end of its window, ms, tab
-- ARGV[7]  and on: per bucket its id and its field of what is spent
-- Returns 1: the books changed; 0: the attempt had ended before, nothing written.
-- A hold that the store does not know is charged all the same, as debt, and flagged `orphan`; an unknown attempt that is
-- voided is marked, so that a reserve that is still under way holds nothing. After a sweep the difference is booked as
-- `corrected`.
-- allow-oom: money that was spent is booked even if the store is full.
local key = KEYS[5]
local void = string.byte(ARGV[3]) == 49
local ids, record = ARGV[4], ARGV[2]
local names, first, outcome = ARGV, 7, nil
local hold = redis.call('HGET', KEYS[2], key)
if hold then
  redis.call('HDEL', KEYS[2], key)
else
  local ended = redis.call('GET', key)
  if ended == 'S' or ended == 'V' then return 0 end
  if ended then
    hold, outcome = string.sub(ended, 2), 'corrected'
  elseif void then
    redis.call('SET', key, 'V', 'PX', ARGV[5])
    return 0
  else
    outcome = 'orphan'
  end
end
-- Amounts stay the strings they came as where nothing is added to them: numbers are slow to print.
local spent, held, owed = ARGV[1], '0', 0
local charged, debt = '0', '0'
local units, tokens = nil, ''
if #ARGV[3] > 1 then
  spent, tokens = string.match(spent, '^(%d+) ?(%d*)$')
  if outcome == 'orphan' then units = '' end
end
if hold then
  local at
  held, charged, debt, at = string.match(hold, '^(%d+)\n(%d+)\n(%d+)\n()')
  local after = at + #ids
  if void or string.find(hold, ids, at, true) ~= at or string.find(hold, '\n\n', after, true) ~= after then
    local own, line, note = string.match(hold, '^([^\n]*)\n([^\n]*)\n[^\n]*\n(.*)$', at)
    if line ~= '' then units = line end
    if void then record = note end
    if own ~= ids then
      -- The caller names other buckets than the hold: the hold's own count.
      ids, names, first = own, {}, 1
      for id in string.gmatch(ids, '[^\t]+') do
        names[#names + 1] = id
        names[#names + 1] = id .. '|s'
      end
    end
  end
end
if charged ~= '0' then
  outcome = 'corrected'
  spent = string.format('%d', spent - charged)
end
-- What a step adds to spent + held was never checked against a limit: it is debt. What it takes away pays debt back.
local growth = spent - held
if growth > 0 then
  owed = growth
elseif debt ~= '0' then
  owed = -math.min(tonumber(debt), -growth)
end
local last = #names
if units then
  -- @include rolling
  -- @include units
  if outcome == 'orphan' then
    local t = redis.call('TIME')
    local now = t[1] * 1000 + math.floor(t[2] / 1000)
    units = string.format('0 0 0 n %.0f:0;', now)
    for id in string.gmatch(ids, '[^\t]+') do
      local length = slot_length(id)
      if length then roll(KEYS[1], KEYS[3], id, length, now) end
    end
  end
  -- The caller's order: first those that are plain.
  local skip = names == ARGV and tonumber(string.sub(ARGV[3], 3)) or 0
  last = first - 1 + 2 * skip
  local _, sums = end_units(KEYS[1], ids, units, tonumber(spent), growth, owed, spent + charged, void and 0 or tonumber(tokens), void and 0 or 1, skip)
  if not void or charged ~= '0' or sums[3] ~= 0 then
    redis.call('XADD', KEYS[4], '*', 'r', record, 'a', key, 'b', ids, 's', spent, 'h', held, 'd', owed, 'o', outcome or '',
      't', sums[1], 'u', sums[2], 'n', sums[3], 'm', sums[4])
  end
end
local grown = growth ~= 0 and string.format('%d', growth)
for i = first, last, 2 do
  if grown then redis.call('HINCRBY', KEYS[1], names[i], grown) end
  if spent ~= '0' then redis.call('HINCRBY', KEYS[1], names[i + 1], spent) end
end
if owed ~= 0 then
  for i = first, last, 2 do redis.call('HINCRBY', KEYS[1], names[i] .. '|d', owed) end
end
if outcome == 'orphan' then
  -- @include rolling
  local ends = string.gmatch(ARGV[6], '(%d+)\t')
  for id in string.gmatch(ids, '[^\t]+') do
    redis.call('HINCRBY', KEYS[1], id, 0)
    redis.call('ZADD', index_of(KEYS[3], id), 'NX', ends(), id)
  end
end
redis.call('SET', key, void and 'V' or 'S', 'PX', ARGV[5])
if units then return 1 end
if owed == 0 and not outcome then
  if not void then
    redis.call('XADD', KEYS[4], '*', 'r', record, 'a', key, 'b', ids, 's', spent, 'h', held)
  end
elseif not void or charged ~= '0' then
  redis.call('XADD', KEYS[4], '*', 'r', record, 'a', key, 'b', ids, 's', spent, 'h', held, 'd', owed, 'o', outcome or '')
end
return 1
