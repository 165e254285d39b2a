#!lua
-- reserve.lua: hold an amount in every bucket, all or none; also extends a hold.
-- KEYS[1]  books      hash: counters, limits, leases; see `keys.py` for its fields. nano-USD, ms
-- KEYS[2]  open       hash: attempt key -> held \n charged \n debt \n bucket ids \n other units (units.lua) \n replica \n note
-- KEYS[3]  index      zset: bucket id -> end of its window, ms
-- KEYS[4]  leases     zset: replica -> end of its lease, ms
-- KEYS[5]  attempt    string, if it has ended: S settled, V voided; X and its hold: swept. All expire.
-- ARGV[1]  amount, nano-USD: of a reserve to hold, of an extend the new total. If not all buckets are plain: space, tokens
-- ARGV[2]  note: JSON for the record of a sweep     ARGV[3]  1 to extend, else 0; then three letters for each bucket that is
--          not a plain one, after those that are: unit u, t, r, c; h hard, s on trial, o soft; c: may carry over, else -
-- ARGV[4]  replica, line feed, length of a lease, ms; a line per bucket: limit if none is published, end of its window, most
--          scopes or 0, and if it carries over, the millionths of the limit and the id of the bucket before, with spaces
-- ARGV[5]  what follows the amount in a fresh hold, up to the note
-- ARGV[6]  latest begin of all windows, ms          ARGV[7]  earliest end of all windows, ms
-- ARGV[8]  field of the lease, then per bucket the field of its limit ('' if it is plain and soft), then each bucket id
-- Returns {i, left}: held; bucket i (1-based) has the least nano-USD left after this. i is 0 if no bucket in USD is hard;
--           where not all are plain followed by the bucket on trial that would have refused, or 0, and what is left in
--           each that is not
--         {-1, i, limit, spent, held, wait}: refused by bucket i, nothing held; there is room after so many ms, -1: unknown
--         {-4, i}: bucket i would be one scope too many, nothing held
--         {-2, now}: a window is not the current one, nothing written
--         {-3, held}: the attempt was known already, nothing more was held
-- Lua numbers are doubles: exact up to 2^53 nano-USD = 9,007,199 USD per counter.
-- An argument costs as much as a small command, and to print or read a number more than to add it: hence few of each.
local key, books = KEYS[5], KEYS[1]
local extending = string.byte(ARGV[3]) == 49
local special = #ARGV[3] > 1
local amount, tokens = ARGV[1], nil
if special then amount, tokens = string.match(amount, '^(%d+) (%d+)$') end
local by = tonumber(amount)
local hold, head, units, tail
local ended = redis.call('GET', key)
if extending then
  if ended == 'S' or ended == 'V' then return {-3, 0} end
  local known = ended and string.sub(ended, 2) or redis.call('HGET', KEYS[2], key)
  if known then
    local held, charged, debt, ids, line, note = string.match(known, '^(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n[^\n]*\n(.*)$')
    local total = by
    by = total - held - charged
    if by <= 0 then return {-3, total} end
    amount = string.format('%d', by)
    local replica = string.match(ARGV[4], '^[^\n]*')
    head = string.format('%d\n%s\n%s\n', held + by, charged, debt) .. ids .. '\n'
    units, tail = line, '\n' .. replica .. '\n' .. note
  end
elseif ended then
  return {-3, 0}
end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if special and not head then
  local empty = string.find(ARGV[5], '\n\n', 1, true)
  head, tail = amount .. string.sub(ARGV[5], 1, empty), string.sub(ARGV[5], empty + 1) .. ARGV[2]
  units = extending and '0 0 0 n ' or string.format('%s 0 0 o ', tokens)
end
if special then
  units = units .. string.format('%.0f:%s;', now, amount)
  hold = head .. units .. tail
elseif head then
  hold = head .. units .. tail
else
  hold = amount .. ARGV[5] .. ARGV[2]
end
if not extending then
  if now < tonumber(ARGV[6]) or now >= tonumber(ARGV[7]) then
    local known = redis.call('HGET', KEYS[2], key)
    if not known then return {-2, now} end
    return {-3, tonumber(string.match(known, '^%d+'))}
  end
  if redis.call('HSETNX', KEYS[2], key, hold) == 0 then
    return {-3, tonumber(string.match(redis.call('HGET', KEYS[2], key), '^%d+'))}
  end
end

-- No number has more than 16 digits: some instances of the budget have a limit of their own, see `write_limit`.
local function own_limit(limits, id)
  local _, stop = string.find(limits, '\n' .. string.match(id, '|([^|]*)|') .. '\t', 1, true)
  return string.match(limits, '^%d+', (stop or 0) + 1)
end

local n = (#ARGV - 8) / 2
local ids = 8 + n
local plain = special and n - (#ARGV[3] - 1) / 3 or n
local have = redis.call('HMGET', books, unpack(ARGV, 8, ids))
local tightest, least, limit, fresh = 0, nil, nil, false
local answer, writes
if special then
  -- @include rolling
  -- Nothing is written for these before it is known that all of them have room.
  answer, writes = {0, 0, 0}, {}
  local refusal, longest
  local line = string.gmatch(ARGV[4], '\n(%d+ [^\n]*)')
  for _ = 1, plain do line() end
  for i = plain + 1, n do
    local told, id = line(), ARGV[ids + i]
    local at = 3 * (i - plain) - 1
    local unit, mode, kind = string.byte(ARGV[3], at, at + 2)
    local add = by
    if unit ~= 117 then add = extending and 0 or unit == 116 and tonumber(tokens) or 1 end
    local most = have[i + 1] or string.match(told, '^%d+')
    most = tonumber(#most > 16 and own_limit(most, id) or most)
    local length, used, more, newest = slot_length(id), nil, 0, nil
    local known, new = true, false
    local scopes = string.match(told, '^%d+ %d+ (%d+)')
    if scopes ~= '0' and not redis.call('HGET', books, id) then
      new = true
      if tonumber(redis.call('HGET', books, scopes_of(id)) or 0) >= tonumber(scopes) then
        if not extending then redis.call('HDEL', KEYS[2], key) end
        return {-4, i}
      end
    end
    if length then
      used, more, newest = roll(books, KEYS[3], id, length, now)
    elseif kind == 99 then
      local there = redis.call('HMGET', books, id, id .. '|x')
      used, more = tonumber(there[1] or 0), tonumber(there[2] or 0)
      if not there[2] then
        local share, before = string.match(told, '^%d+ %d+ %d+ (%d+) (.*)$')
        there = redis.call('HMGET', books, before, before .. '|x')
        if there[1] then more = math.max(0, math.min(most + (there[2] or 0) - there[1], math.floor(most * (share / 1000000)))) end
        known = false
      end
    else
      used = tonumber(redis.call('HGET', books, id) or 0)
    end
    local left = most + more - used - add
    answer[#answer + 1] = left
    if left < 0 and add > 0 and mode == 115 then answer[3] = answer[3] == 0 and i or answer[3] end
    if left < 0 and add > 0 and mode == 104 then
      local wait = -1
      if length then
        -- Room comes when enough has left the window.
        if add <= most then
          local short = -left
          for m = newest - 59, newest do
            short = short - (redis.call('HGET', books, id .. '|' .. m % 60) or 0)
            if short <= 0 then
              wait = (m + 60) * length - now
              break
            end
          end
        end
      elseif unit ~= 99 then
        local ends = tonumber(string.match(told, ' (%d+)'))
        if ends < 9007199254740991 then wait = ends - now end
      end
      -- Of several the one that takes longest.
      local rank = wait < 0 and (unit == 99 and 0 or math.huge) or wait
      if not refusal or rank > longest then
        local spent = tonumber(redis.call('HGET', books, id .. '|s') or 0)
        local held = used - spent
        local inside = used - (length and more or 0)
        if length then held = math.min(held, inside) end
        refusal, longest = {-1, i, most + (length and 0 or more), inside - held, held, wait}, rank
      end
    end
    if unit == 117 and mode == 104 and (tightest == 0 or left < least) then
      tightest, least, limit = i, left, most
    end
    writes[#writes + 1] = {id, add, length, newest, used, not known and more, new}
  end
  if refusal then
    if not extending then redis.call('HDEL', KEYS[2], key) end
    return refusal
  end
end
for i = 1, plain do
  local used = redis.call('HINCRBY', books, ARGV[ids + i], amount)
  fresh = fresh or used == by
  if ARGV[8 + i] ~= '' then
    local most = have[i + 1]
    if not most then
      -- None is published: what the caller knows.
      local limits = string.gmatch(ARGV[4], '\n(%d+) ')
      for _ = 1, i do most = limits() end
    elseif #most > 16 then
      most = own_limit(most, ARGV[ids + i])
    end
    local left = most - used
    if tightest == 0 or left < least then
      tightest, least, limit = i, left, most
    end
  end
end

local crowded, begun, till = 0, nil, nil
if fresh then
  -- @include rolling
  begun, till = {}, till_of
  local scopes = string.gmatch(ARGV[4], '\n%d+ %d+ (%d+)')
  for i = 1, plain do
    local id, most = ARGV[ids + i], scopes()
    begun[i] = index_of(KEYS[3], id)
    if most ~= '0' and not redis.call('ZSCORE', begun[i], id) then
      if tonumber(redis.call('HGET', books, scopes_of(id)) or 0) >= tonumber(most) then
        crowded = i
        break
      end
      begun[-i] = scopes_of(id)
    end
  end
end

if crowded > 0 or (tightest > 0 and by > 0 and least < 0) then
  -- Refused: as if nothing had been written. Redis takes '-0' for no number.
  local back = by > 0 and '-' .. amount or '0'
  for i = 1, plain do
    local id = ARGV[ids + i]
    if redis.call('HINCRBY', books, id, back) == 0
      and not redis.call('ZSCORE', KEYS[3], id) and not redis.call('ZSCORE', KEYS[3] .. ':scopes', id) then
      redis.call('HDEL', books, id)
    end
  end
  if not extending then redis.call('HDEL', KEYS[2], key) end
  if crowded > 0 then return {-4, crowded} end
  local spent = redis.call('HGET', books, ARGV[ids + tightest] .. '|s') or 0
  local ends = string.gmatch(ARGV[4], '\n%d+ (%d+)')
  local wait
  for _ = 1, tightest do wait = tonumber(ends()) end
  wait = wait < 9007199254740991 and wait - now or -1
  return {-1, tightest, tonumber(limit), tonumber(spent), limit - least - by - spent, wait}
end

if extending then
  redis.call('HSET', KEYS[2], key, hold)
  if ended then redis.call('DEL', key) end
end
if fresh then
  local ends = string.gmatch(ARGV[4], '\n%d+ (%d+)')
  for i = 1, plain do
    local id = ARGV[ids + i]
    if begun[-i] then redis.call('HINCRBY', books, begun[-i], 1) end
    redis.call('ZADD', begun[i], 'NX', till(id, ends(), now), id)
  end
end
if special then
  -- @include rolling
  local ends = string.gmatch(ARGV[4], '\n%d+ (%d+)')
  for _ = 1, plain do ends() end
  for _, w in ipairs(writes) do
    local id, add, length, newest, used, carried, new = unpack(w, 1, 7)
    local till = ends()
    if add > 0 or not extending then
      redis.call('HINCRBY', books, id, string.format('%.0f', add))
      if length then redis.call('HINCRBY', books, id .. '|' .. newest % 60, string.format('%.0f', add)) end
      if carried then redis.call('HSET', books, id .. '|x', string.format('%.0f', carried)) end
      if used == 0 and not length then redis.call('ZADD', index_of(KEYS[3], id), 'NX', till_of(id, till, now), id) end
      if new then redis.call('HINCRBY', books, scopes_of(id), 1) end
    end
  end
end
if not have[1] or tonumber(have[1]) < now then
  local replica, length = string.match(ARGV[4], '^([^\n]*)\n(%d+)')
  local till = string.format('%d', now + length)
  redis.call('HSET', books, ARGV[8], till)
  redis.call('ZADD', KEYS[4], till, replica)
end
if special then
  answer[1], answer[2] = tightest, least or 0
  return answer
end
if tightest == 0 then return {0} end
return {tightest, least}
