#!lua flags=allow-oom
-- sweep.lua: charge open holds of replicas whose lease has run out, whole, or the progress if that is more. One page of all
-- holds. Progress alone is a lower bound: what was streamed after the last heartbeat is not in it.
-- KEYS[1]  books      hash (see `keys.py`)          KEYS[2]  open    hash (see reserve.lua)
-- KEYS[3]  leases     zset: replica -> end of its lease, ms
-- KEYS[4]  log        stream (see settle.lua)       KEYS[5]  index   zset: bucket id -> end of its window, ms
-- KEYS[6]  trimmed    hash (see trim.lua)
-- ARGV[1]  progress, base name; the hash of a replica is this name .. replica: attempt key -> nano-USD burnt
-- ARGV[2]  cursor: '0' begins a pass                ARGV[3]  when the pass began, ms, as the first page answered
-- ARGV[4]  holds to look at                         ARGV[5]  how long a swept attempt is remembered, ms
-- ARGV[6]  how long counters outlive their window, ms      ARGV[7]  the same where clients make up the scope
-- ARGV[8]  how long a session is remembered that is not used, ms
-- ARGV[9]  longest time that a lease can be from now, ms: one that ends later was written before the clock went back
-- Returns {holds charged, cursor of the next page or '0', when the pass began}.
-- A hold is charged once: it leaves the open holds in the same step. A replica that was dead during a whole pass is
-- forgotten at its end. The first page also drops counters that nobody can need any more.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local began = ARGV[2] == '0' and now or tonumber(ARGV[3])
local swept = 0

-- @include rolling
-- @include units

local function charge_hold(key, hold, owner)
  local h, c, d, ids, units, note = string.match(hold, '^(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n[^\n]*\n(.*)$')
  local held, charged, debt = tonumber(h), tonumber(c), tonumber(d)
  local burnt = redis.call('HGET', ARGV[1] .. owner, key)
  local charge = held + charged
  if burnt then charge = math.max(charge, tonumber(burnt)) end
  -- What a step adds to spent + held was never checked against a limit: it is debt. What it takes away pays debt back.
  local spent = charge - charged
  local growth = spent - held
  local owed = growth
  if growth <= 0 then owed = -math.min(debt, -growth) end
  local line = {'XADD', KEYS[4], '*', 'r', note, 'a', key, 'b', ids, 's', spent, 'h', held, 'd', owed + 0, 'o', 'swept'}
  if units == '' then
    for id in string.gmatch(ids, '[^\t]+') do
      redis.call('HINCRBY', KEYS[1], id, growth)
      redis.call('HINCRBY', KEYS[1], id .. '|s', spent)
      if owed ~= 0 then redis.call('HINCRBY', KEYS[1], id .. '|d', owed) end
    end
  else
    local sums
    units, sums = end_units(KEYS[1], ids, units, spent, growth, owed, charge, nil, 1, 0)
    for i, name in ipairs({'t', 'u', 'n', 'm'}) do
      line[#line + 1] = name
      line[#line + 1] = sums[i]
    end
  end
  redis.call('HDEL', KEYS[2], key)
  local swept_hold = string.format('X0\n%d\n%d\n', charge, debt + owed) .. ids .. '\n' .. units .. '\n' .. owner .. '\n' .. note
  redis.call('SET', key, swept_hold, 'PX', ARGV[5])
  redis.call(unpack(line))
  swept = swept + 1
end

-- Whether a session whose time has come is kept: it was used since that was last asked.
local function used_since(index, id)
  if not string.find(id, 'session=', 1, true) or not string.find(id, '|all', 1, true) then return false end
  local used = redis.call('HGET', KEYS[1], id) or '0'
  if used == redis.call('HGET', KEYS[1], id .. '|i') then return false end
  redis.call('HSET', KEYS[1], id .. '|i', used)
  redis.call('ZADD', index, string.format('%.0f', now + ARGV[8]), id)
  return true
end

-- Forget a bucket. One whose id may be used again leaves a line in the log that takes back what its others say.
local function drop(index, id)
  local length = slot_length(id)
  if used_since(index, id) then return end
  local have = redis.call('HMGET', KEYS[1], id, id .. '|s', id .. '|d')
  local used, spent, debt = tonumber(have[1] or 0), tonumber(have[2] or 0), tonumber(have[3] or 0)
  -- Something is held in it: the clock jumped over its age while a call was under way.
  if used ~= spent then return end
  if length or (string.find(id, 'session=', 1, true) and string.find(id, '|all', 1, true)) then
    local unit = string.match(id, '~(%l)$')
    local s, d = unit == 't' and 't' or unit == 'r' and 'n' or 's', unit == 't' and 'u' or unit == 'r' and 'm' or 'd'
    local line = {r = '', a = '', b = id, s = 0, h = 0, d = 0, o = 'closed'}
    line[s], line[d] = string.format('%.0f', -spent), string.format('%.0f', -debt)
    local call = {'XADD', KEYS[4], '*'}
    for name, value in pairs(line) do
      call[#call + 1] = name
      call[#call + 1] = value
    end
    if spent ~= 0 or debt ~= 0 then redis.call(unpack(call)) end
    for m = 0, length and 59 or -1 do redis.call('HDEL', KEYS[1], id .. '|' .. m) end
    redis.call('HDEL', KEYS[1], id .. '|n', id .. '|i')
  else
    redis.call('HDEL', KEYS[6], id .. '|s', id .. '|d')
  end
  redis.call('HDEL', KEYS[1], id, id .. '|s', id .. '|d', id .. '|x')
  redis.call('ZREM', index, id)
  -- What all share that came too late was not counted as a scope.
  local scopes = scopes_of(id)
  if not string.find(id, '=*', 1, true) and redis.call('HEXISTS', KEYS[1], scopes) == 1 and redis.call('HINCRBY', KEYS[1], scopes, -1) <= 0 then
    redis.call('HDEL', KEYS[1], scopes)
  end
end

if ARGV[2] == '0' then
  for i, index in ipairs({KEYS[5], KEYS[5] .. ':scopes'}) do
    local past = redis.call('ZRANGE', index, '-inf', '(' .. string.format('%.0f', now - ARGV[5 + i]), 'BYSCORE', 'LIMIT', 0, 200)
    for _, id in ipairs(past) do drop(index, id) end
  end
end
if ARGV[2] == '0' then
  local most = string.format('%.0f', now + ARGV[9])
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. most, '+inf')) do
    redis.call('ZADD', KEYS[3], most, replica)
    redis.call('HSET', KEYS[1], '|' .. replica, most)
  end
end
local dead, some = {}, false
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. string.format('%.0f', now))) do
  dead[replica], some = true, true
end
if not some then return {0, '0', began} end
local page = redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[4])
for i = 1, #page[2], 2 do
  local owner = string.match(page[2][i + 1], '^%d+\n%d+\n%d+\n[^\n]*\n[^\n]*\n([^\n]*)\n')
  if dead[owner] then charge_hold(page[2][i], page[2][i + 1], owner) end
end
if page[1] == '0' then
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. string.format('%.0f', began))) do
    redis.call('ZREM', KEYS[3], replica)
    redis.call('HDEL', KEYS[1], '|' .. replica)
    redis.call('DEL', ARGV[1] .. replica)
  end
end
return {swept, page[1], began}
