#!lua flags=allow-oom
-- sweep.lua: charge the open holds of replicas whose lease has run out: progress, else the whole hold.
-- KEYS[1]  leases     zset: replica -> end of its lease, ms
-- KEYS[2]  open holds, base name; the set of a replica is this name .. replica
-- KEYS[3]  progress, base name; the hash of a replica is this name .. replica: attempt id -> nano-USD burnt
-- KEYS[4]  log        stream (see settle.lua)
-- KEYS[5]  index      zset: bucket id -> end of its window, ms
-- ARGV[1]  key prefix of attempts    ARGV[2]  key prefix of counters
-- ARGV[3]  most holds to charge      ARGV[4]  how long a swept attempt is remembered, ms
-- ARGV[5]  how long counters outlive their window, ms
-- Returns the number of holds charged. Every hold is charged once: it leaves the set of its replica in the same step.
-- A replica is forgotten with its last hold.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local left = tonumber(ARGV[3])
local swept = 0

local function charge_hold(id, burnt)
  local key = ARGV[1] .. id
  local known = redis.call('GET', key)
  if not known or string.byte(known) ~= 72 then return end
  local a, h, c, d, owner, m, rest = string.match(known, '^%u\n(%d+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(%d+)\n(.*)$')
  local held, charged, debt = tonumber(h), tonumber(c), tonumber(d)
  local charge = held + charged
  if burnt and tonumber(burnt) > 0 then charge = math.max(charged, tonumber(burnt)) end
  -- What a step adds to spent + held was never checked against a limit: it is debt. What it takes away pays debt back.
  local spent = charge - charged
  local growth = spent - held
  local owed = growth
  if growth <= 0 then owed = -math.min(debt, -growth) end
  local s, g, o = string.format('%.0f', spent), string.format('%.0f', -held), string.format('%.0f', owed)
  local names, at = {}, 1
  for i = 1, tonumber(m) do
    local stop = string.find(rest, '\n', at, true)
    names[i] = string.sub(rest, at, stop - 1)
    at = stop + 1
    local counter = ARGV[2] .. names[i]
    if spent ~= 0 then redis.call('HINCRBY', counter, 's', s) end
    if held ~= 0 then redis.call('HINCRBY', counter, 'h', g) end
    if owed ~= 0 then redis.call('HINCRBY', counter, 'd', o) end
  end
  redis.call('SET', key, table.concat({
    'X', a, '0', string.format('%.0f', charge), string.format('%.0f', debt + owed), owner, m, rest,
  }, '\n'), 'PX', ARGV[4])
  redis.call('XADD', KEYS[4], '*', 'r', string.sub(rest, at), 'a', id, 'o', 'swept', 's', s, 'd', o, 'h', h,
    'b', table.concat(names, '\n'))
  swept = swept + 1
end

for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now))) do
  local open = KEYS[2] .. replica
  while left > 0 do
    local id = redis.call('SPOP', open)
    if not id then
      redis.call('ZREM', KEYS[1], replica)
      redis.call('DEL', KEYS[3] .. replica)
      break
    end
    charge_hold(id, redis.call('HGET', KEYS[3] .. replica, id))
    left = left - 1
  end
end
if swept == 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', string.format('%.0f', now - tonumber(ARGV[5])))
end
return swept
