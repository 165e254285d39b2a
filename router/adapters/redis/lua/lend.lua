#!lua flags=allow-oom
-- lend.lua: hand a part of one hold over to another attempt in the same windows. What is held in all stays the same.
-- KEYS[1]  open       hash (see reserve.lua)
-- KEYS[2]  lender     attempt key (see reserve.lua)     KEYS[3]  borrower, another one
-- ARGV[1]  what the borrower has in the end, nano-USD: less if the lender has not so much
-- ARGV[2]  replica of the borrower                      ARGV[3]  note of the borrower, JSON
-- ARGV[4]  how long a swept attempt is remembered, ms
-- Returns 1: something was handed over; 0: the borrower has ended or has as much, or the lender has nothing.
-- A lender that was swept hands over what it was charged: the borrower counts as swept, and settling it corrects that.
-- allow-oom: it comes before a settlement.
local ended = redis.call('GET', KEYS[3])
if ended == 'S' or ended == 'V' then return 0 end

local function parse(hold)
  local h, c, d, ids, units, owner, note = string.match(hold, '^(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
  return {h = tonumber(h), c = tonumber(c), d = d, ids = ids, units = units, owner = owner, note = note}
end
local function format(a)
  return string.format('%d\n%d\n', a.h, a.c) .. a.d .. '\n' .. a.ids .. '\n' .. a.units .. '\n' .. a.owner .. '\n' .. a.note
end

local found, swept = redis.call('HGET', KEYS[1], KEYS[2]), false
if not found then
  found = redis.call('GET', KEYS[2]) or ''
  if string.byte(found) ~= 88 then return 0 end
  found, swept = string.sub(found, 2), true
end
local lender = parse(found)
local known = ended and string.sub(ended, 2) or redis.call('HGET', KEYS[1], KEYS[3])
local borrower = {h = 0, c = 0, d = '0', ids = lender.ids, units = '', owner = ARGV[2], note = ARGV[3]}
if known then borrower = parse(known) end
local by = math.min(tonumber(ARGV[1]) - borrower.h - borrower.c, swept and lender.c or lender.h)
if by <= 0 then return 0 end

-- A lender is held in one piece; what it hands over stays in the moment of that piece.
local head, at, piece = string.match(lender.units, '^(.* )(%d+):(%d+);$')
if head then
  lender.units = head .. string.format('%s:%.0f;', at, piece - by)
  if borrower.units == '' then borrower.units = head end
end
if borrower.units ~= '' then
  at = at or string.match(borrower.units, ' (%d+):') or '0'
  borrower.units = borrower.units .. string.format('%s:%.0f;', at, by)
end
if swept then
  lender.c, borrower.c = lender.c - by, borrower.c + by
  redis.call('SET', KEYS[2], 'X' .. format(lender), 'PX', ARGV[4])
else
  lender.h, borrower.h = lender.h - by, borrower.h + by
  redis.call('HSET', KEYS[1], KEYS[2], format(lender))
end
if (swept and not known) or (swept and ended) then
  redis.call('SET', KEYS[3], 'X' .. format(borrower), 'PX', ARGV[4])
else
  redis.call('HSET', KEYS[1], KEYS[3], format(borrower))
  if ended then redis.call('DEL', KEYS[3]) end
end
return 1
