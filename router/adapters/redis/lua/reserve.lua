#!lua
-- reserve.lua: hold an amount in every bucket, all or none; also extends a hold.
-- KEYS[1]  leases     zset: replica -> end of its lease, ms
-- KEYS[2]  open holds, base name; the set of a replica is this name .. replica
-- KEYS[3]  limits     hash: budget -> nano-USD
-- KEYS[4]  index      zset: bucket id -> end of its window, ms
-- KEYS[5..n+4]  counters, one hash per bucket: s spent, h held, d debt    nano-USD
-- KEYS[n+5]     the attempt
-- ARGV[1]  replica             ARGV[2]  length of a lease, ms
-- ARGV[3]  latest begin of all windows, ms    ARGV[4]  earliest end of all windows, ms
-- ARGV[5]  bucket ids, joined by line feeds   ARGV[6]  how long counters outlive their window, ms
-- ARGV[7..3n+6]  per bucket: budget name; limit to use if none is published, or '' if soft; end of window, ms
-- ARGV[3n+7]  attempt id       ARGV[3n+8]  amount, nano-USD: of a reserve to hold, of an extend the new total
-- ARGV[3n+9]  '1' to extend    ARGV[3n+10] note: JSON for the record of a sweep
-- Returns {0, i, left}: held; bucket i (1-based; 0: no hard bucket) has the least left after this, nano-USD
--         {1, i, limit, spent, held}: refused by bucket i, nothing written
--         {2, now}: a window is not the current one, nothing written
--         {3, held}: the attempt was known already, nothing more was held
-- An attempt is the string state \n amount \n held \n charged \n debt \n replica \n number of buckets \n ids... \n note;
-- states: H held, X swept; S settled and V voided stand alone. All but H expire.
-- Lua numbers are doubles: exact up to 2^53 nano-USD = 9,007,199 USD per counter.
local n = #KEYS - 5
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local key = KEYS[n + 5]
local base = 3 * n + 6
local amount = tonumber(ARGV[base + 2])
local extending = ARGV[base + 3] == '1'
local known = redis.call('GET', key)
local held, charged, debt = 0, 0, '0'
local by, rest, owner = amount, nil, nil
if known then
  if known == 'S' or known == 'V' then return {3, 0} end
  local h, c
  h, c, debt, owner, rest = string.match(known, '^%u\n%d+\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n(.*)$')
  held, charged = tonumber(h), tonumber(c)
  if not extending then return {3, held} end
  by = amount - held - charged
  if by <= 0 then return {3, amount} end
elseif not extending and (now < tonumber(ARGV[3]) or now >= tonumber(ARGV[4])) then
  return {2, now}
end
local tightest, least, limit, spent, reserved = 0, 0, 0, 0, 0
local fresh
for i = 1, n do
  local c = redis.call('HMGET', KEYS[i + 4], 's', 'h')
  if not c[1] then
    fresh = fresh or {}
    fresh[#fresh + 1] = i
  end
  local fallback = ARGV[3 * i + 5]
  if fallback ~= '' then
    local l = tonumber(redis.call('HGET', KEYS[3], ARGV[3 * i + 4]) or fallback)
    local s, h = tonumber(c[1] or 0), tonumber(c[2] or 0)
    local left = l - s - h
    if tightest == 0 or left < least then
      tightest, least, limit, spent, reserved = i, left, l, s, h
    end
  end
end
if tightest > 0 and by > 0 and least < by then
  return {1, tightest, limit, spent, reserved}
end
local more = string.format('%.0f', by)
for i = 1, n do
  redis.call('HINCRBY', KEYS[i + 4], 'h', more)
end
if fresh then
  local ids = {}
  for id in string.gmatch(ARGV[5], '[^\n]+') do ids[#ids + 1] = id end
  for _, i in ipairs(fresh) do
    local ends = tonumber(ARGV[3 * i + 6])
    redis.call('HSET', KEYS[i + 4], 's', '0', 'd', '0')
    redis.call('ZADD', KEYS[4], ARGV[3 * i + 6], ids[i])
    if ends < 9007199254740991 then
      redis.call('PEXPIREAT', KEYS[i + 4], string.format('%.0f', ends + tonumber(ARGV[6])))
    end
  end
end
local head = table.concat({
  'H', string.format('%.0f', amount), string.format('%.0f', held + by), string.format('%.0f', charged),
  debt, ARGV[1],
}, '\n')
rest = rest or (n .. '\n' .. ARGV[5] .. (n > 0 and '\n' or '') .. ARGV[base + 4])
redis.call('SET', key, head .. '\n' .. rest)
if owner and owner ~= ARGV[1] then
  redis.call('SREM', KEYS[2] .. owner, ARGV[base + 1])
end
redis.call('SADD', KEYS[2] .. ARGV[1], ARGV[base + 1])
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not lease or tonumber(lease) < now then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
end
return {0, tightest, least - by}
