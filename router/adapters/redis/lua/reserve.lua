#!lua
-- reserve.lua: hold an amount in every bucket, all or none; also extends a hold.
-- KEYS[1]  books      hash: counters, limits, leases; see `keys.py` for its fields. nano-USD, ms
-- KEYS[2]  open       hash: attempt key -> held \n charged \n debt \n bucket ids \n replica \n note
-- KEYS[3]  index      zset: bucket id -> end of its window, ms
-- KEYS[4]  leases     zset: replica -> end of its lease, ms
-- KEYS[5]  attempt    string, if it has ended: S settled, V voided; X and its hold: swept. All expire.
-- ARGV[1]  amount, nano-USD: of a reserve to hold, of an extend the new total
-- ARGV[2]  note: JSON for the record of a sweep     ARGV[3]  '1' to extend
-- ARGV[4]  replica                                  ARGV[5]  length of a lease, ms
-- ARGV[6]  latest begin of all windows, ms          ARGV[7]  earliest end of all windows, ms
-- ARGV[8]  bucket ids, joined by tabs               ARGV[9]  per bucket: limit if none is published, space, end of window, tab
-- ARGV[10] what follows the amount in a fresh hold, up to the note
-- ARGV[11] field of the lease, then per bucket the fields of spent, held and limit; the last is '' if the bucket is soft
-- Returns {i, left}: held; bucket i (1-based) has the least left after this, nano-USD. {0}: held, no bucket is hard
--         {-1, i, limit, spent, held}: refused by bucket i, nothing written
--         {-2, now}: a window is not the current one, nothing written
--         {-3, held}: the attempt was known already, nothing more was held
-- Lua numbers are doubles: exact up to 2^53 nano-USD = 9,007,199 USD per counter. They go to Redis as numbers: all digits.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local key = KEYS[5]
local extending = ARGV[3] == '1'
local by = tonumber(ARGV[1])
local hold
local ended = redis.call('GET', key)
if extending then
  local known = redis.call('HGET', KEYS[2], key)
  if ended == 'S' or ended == 'V' then return {-3, 0} end
  if ended then known = string.sub(ended, 2) end
  if known then
    local held, charged, debt, ids, note = string.match(known, '^(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n[^\n]*\n(.*)$')
    local total = by
    by = total - held - charged
    if by <= 0 then return {-3, total} end
    hold = table.concat({string.format('%.0f', held + by), charged, debt, ids, ARGV[4], note}, '\n')
  end
elseif ended then
  return {-3, 0}
end

-- What is held for this attempt already, if it was reserved before.
local function held_before()
  local known = not extending and redis.call('HGET', KEYS[2], key)
  return known and tonumber(string.match(known, '^%d+'))
end

-- Limit or end of the window of bucket i, as the caller knows them.
local function told(i, what)
  local at = 0
  for limit, ends in string.gmatch(ARGV[9], '(%d+) (%d+)\t') do
    at = at + 1
    if at == i then return what == 'limit' and limit or ends end
  end
end

if not extending and (now < tonumber(ARGV[6]) or now >= tonumber(ARGV[7])) then
  local held = held_before()
  return held and {-3, held} or {-2, now}
end
local have = redis.call('HMGET', KEYS[1], unpack(ARGV, 11))
local fields = #have
local tightest, least = 0, nil
for at = 2, fields, 3 do
  if ARGV[at + 12] ~= '' then
    local left = (have[at + 2] or told((at + 1) / 3, 'limit')) - (have[at] or 0) - (have[at + 1] or 0)
    if tightest == 0 or left < least then
      tightest, least = at, left
    end
  end
end
if tightest > 0 and by > 0 and least < by then
  local held = held_before()
  if held then return {-3, held} end
  local i = (tightest + 1) / 3
  local spent, reserved = tonumber(have[tightest] or 0), tonumber(have[tightest + 1] or 0)
  return {-1, i, least + spent + reserved, spent, reserved}
end
if extending then
  redis.call('HSET', KEYS[2], key, hold or (ARGV[1] .. ARGV[10] .. ARGV[2]))
  if ended then redis.call('DEL', key) end
elseif redis.call('HSETNX', KEYS[2], key, ARGV[1] .. ARGV[10] .. ARGV[2]) == 0 then
  return {-3, held_before()}
end
local write, fresh = {}, false
for at = 2, fields, 3 do
  write[#write + 1] = ARGV[at + 11]
  write[#write + 1] = (have[at + 1] or 0) + by
  fresh = fresh or not have[at]
end
if fresh then
  local i = 0
  for id in string.gmatch(ARGV[8], '[^\t]+') do
    i = i + 1
    if not have[3 * i - 1] then
      write[#write + 1] = ARGV[3 * i + 9]
      write[#write + 1] = 0
      redis.call('ZADD', KEYS[3], told(i, 'ends'), id)
    end
  end
end
if not have[1] or tonumber(have[1]) < now then
  write[#write + 1] = ARGV[11]
  write[#write + 1] = now + ARGV[5]
  redis.call('ZADD', KEYS[4], now + ARGV[5], ARGV[4])
end
if #write > 0 then redis.call('HSET', KEYS[1], unpack(write)) end
if tightest == 0 then return {0} end
return {(tightest + 1) / 3, least - by}
