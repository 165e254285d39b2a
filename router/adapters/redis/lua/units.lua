-- units.lua: part of other scripts. Needs rolling.lua. Ends a hold in buckets of every unit.
-- A hold that counts more than nano-USD in windows of the calendar has a line
--   tokens held, charged and owed; o: the call is open, c: it was charged, n: neither; ms:nano-USD; of each piece of the hold
-- all with a space between. `total`: nano-USD charged in all; `tokens`: in all, nil: what was held counts; `calls`: 1, or 0
-- if nothing is to be charged; `skip`: so many buckets are left to the caller. Returns the line of a hold that is charged, and what the log says of tokens and calls.
local function post(books, id, spent, growth, owed, pieces)
  if growth ~= 0 then redis.call('HINCRBY', books, id, string.format('%.0f', growth)) end
  if spent ~= 0 then redis.call('HINCRBY', books, id .. '|s', string.format('%.0f', spent)) end
  if owed ~= 0 then redis.call('HINCRBY', books, id .. '|d', string.format('%.0f', owed)) end
  local length, newest = nil, nil
  for k = 2, #pieces, 2 do
    if pieces[k] ~= 0 then
      length = length or slot_length(id)
      if not length then return end
      newest = newest or tonumber(redis.call('HGET', books, id .. '|n') or nil)
      add_at(books, id, length, newest, pieces[k - 1], pieces[k])
    end
  end
end

local function end_units(books, ids, line, spent, growth, owed, total, tokens, calls, skip)
  local th, tc, td, state, list = string.match(line, '^(%d+) (%d+) (%d+) (%l) (.*)$')
  th, tc, td = tonumber(th), tonumber(tc), tonumber(td)
  tokens = tokens or th + tc
  local t_spent = tokens - tc
  local t_growth = t_spent - th
  local t_owed = t_growth > 0 and t_growth or -math.min(td, -t_growth)
  local open = state == 'o' and 1 or 0
  local r_spent = calls - (state == 'c' and 1 or 0)
  local r_growth = r_spent - open
  local r_owed = math.max(r_growth, 0)
  -- Each piece counts where it was held: the charge fills one after the other, the last takes what is left.
  local pieces, kept, left, first = {}, {}, total, nil
  for at, amount in string.gmatch(list, '(%d+):(%d+);') do
    first = first or tonumber(at)
    pieces[#pieces + 1], pieces[#pieces + 2] = tonumber(at), tonumber(amount)
  end
  for k = 1, #pieces, 2 do
    local part = left
    if k + 1 < #pieces then part = math.min(left, pieces[k + 1]) end
    left = left - part
    pieces[k + 1] = part - pieces[k + 1]
    kept[#kept + 1] = string.format('%.0f:%.0f;', pieces[k], part)
  end
  for id in string.gmatch(ids, '[^\t]+') do
    local unit = skip <= 0 and string.match(id, '~(%l)$')
    skip = skip - 1
    if skip >= 0 then
      -- A plain one: the caller's.
    elseif not unit then
      post(books, id, spent, growth, owed, pieces)
    elseif unit == 't' then
      post(books, id, t_spent, t_growth, t_owed, {first, t_growth})
    elseif unit == 'r' then
      post(books, id, r_spent, r_growth, r_owed, {first, r_growth})
    else
      post(books, id, 0, -open, 0, {first, -open})
    end
  end
  line = string.format('0 %.0f %.0f %s ', tokens, td + t_owed, calls == 1 and 'c' or 'n') .. table.concat(kept)
  return line, {t_spent, t_owed + 0, r_spent, r_owed}
end
