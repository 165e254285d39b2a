#!lua
-- reserve.lua: hold an amount in every bucket, all or none; also extends a hold.
-- KEYS[1]  books      hash: counters, limits, leases; see `keys.py` for its fields. nano-USD, ms
-- KEYS[2]  open       hash: attempt key -> held \n charged \n debt \n bucket ids \n replica \n note
-- KEYS[3]  index      zset: bucket id -> end of its window, ms
-- KEYS[4]  leases     zset: replica -> end of its lease, ms
-- KEYS[5]  attempt    string, if it has ended: S settled, V voided; X and its hold: swept. All expire.
-- ARGV[1]  amount, nano-USD: of a reserve to hold, of an extend the new total
-- ARGV[2]  note: JSON for the record of a sweep     ARGV[3]  '1' to extend
-- ARGV[4]  replica, line feed, length of a lease, ms; a line per bucket: limit if none is published, space, end of window
-- ARGV[5]  what follows the amount in a fresh hold, up to the note
-- ARGV[6]  latest begin of all windows, ms          ARGV[7]  earliest end of all windows, ms
-- ARGV[8]  field of the lease, then per bucket the field of its limit ('' if it is soft), then each bucket id
-- Returns {i, left}: held; bucket i (1-based) has the least left after this, nano-USD. {0}: held, no bucket is hard
--         {-1, i, limit, spent, held}: refused by bucket i, nothing written
--         {-2, now}: a window is not the current one, nothing written
--         {-3, held}: the attempt was known already, nothing more was held
-- Lua numbers are doubles: exact up to 2^53 nano-USD = 9,007,199 USD per counter.
-- An argument costs as much as a small command, and to print or read a number more than to add it: hence few of each.
local key, books = KEYS[5], KEYS[1]
local extending = ARGV[3] == '1'
local amount = ARGV[1]
local by = tonumber(amount)
local hold
local ended = redis.call('GET', key)
if extending then
  if ended == 'S' or ended == 'V' then return {-3, 0} end
  local known = ended and string.sub(ended, 2) or redis.call('HGET', KEYS[2], key)
  if known then
    local held, charged, debt, ids, note = string.match(known, '^(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n[^\n]*\n(.*)$')
    local total = by
    by = total - held - charged
    if by <= 0 then return {-3, total} end
    amount = string.format('%d', by)
    local replica = string.match(ARGV[4], '^[^\n]*')
    hold = string.format('%d\n%s\n%s\n', held + by, charged, debt) .. ids .. '\n' .. replica .. '\n' .. note
  end
elseif ended then
  return {-3, 0}
end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if not extending then
  if now < tonumber(ARGV[6]) or now >= tonumber(ARGV[7]) then
    local known = redis.call('HGET', KEYS[2], key)
    if not known then return {-2, now} end
    return {-3, tonumber(string.match(known, '^%d+'))}
  end
  if redis.call('HSETNX', KEYS[2], key, amount .. ARGV[5] .. ARGV[2]) == 0 then
    return {-3, tonumber(string.match(redis.call('HGET', KEYS[2], key), '^%d+'))}
  end
end

local n = (#ARGV - 8) / 2
local ids = 8 + n
local have = redis.call('HMGET', books, unpack(ARGV, 8, ids))
local tightest, least, limit, fresh = 0, nil, nil, false
for i = 1, n do
  local used = redis.call('HINCRBY', books, ARGV[ids + i], amount)
  fresh = fresh or used == by
  if ARGV[8 + i] ~= '' then
    local most = have[i + 1]
    if not most then
      -- None is published: what the caller knows.
      local limits = string.gmatch(ARGV[4], '\n(%d+) ')
      for _ = 1, i do most = limits() end
    end
    local left = most - used
    if tightest == 0 or left < least then
      tightest, least, limit = i, left, most
    end
  end
end

if tightest > 0 and by > 0 and least < 0 then
  -- Refused: as if nothing had been written.
  local back = '-' .. amount
  for i = 1, n do
    local id = ARGV[ids + i]
    if redis.call('HINCRBY', books, id, back) == 0 and not redis.call('ZSCORE', KEYS[3], id) then
      redis.call('HDEL', books, id)
    end
  end
  if not extending then redis.call('HDEL', KEYS[2], key) end
  local spent = redis.call('HGET', books, ARGV[ids + tightest] .. '|s') or 0
  return {-1, tightest, tonumber(limit), tonumber(spent), limit - least - by - spent}
end

if extending then
  redis.call('HSET', KEYS[2], key, hold or (amount .. ARGV[5] .. ARGV[2]))
  if ended then redis.call('DEL', key) end
end
if fresh then
  local ends = string.gmatch(ARGV[4], ' (%d+)')
  for i = 1, n do redis.call('ZADD', KEYS[3], 'NX', ends(), ARGV[ids + i]) end
end
if not have[1] or tonumber(have[1]) < now then
  local replica, length = string.match(ARGV[4], '^([^\n]*)\n(%d+)')
  local till = string.format('%d', now + length)
  redis.call('HSET', books, ARGV[8], till)
  redis.call('ZADD', KEYS[4], till, replica)
end
if tightest == 0 then return {0} end
return {tightest, least}
