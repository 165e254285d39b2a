-- rolling.lua: part of other scripts. What a bucket counts beside plain nano-USD in a window of the calendar.
-- A bucket id that ends in ~t counts tokens, ~r calls, ~c calls under way; all others nano-USD.
-- A window named last-<n>s rolls: what counts is the sum over the last n seconds. Such a bucket has the counters of one
-- that never ends, and in the books beside them
--   <bucket id>|0 .. |59  what was added in a slot of time, by the number of the slot modulo 60
--   <bucket id>|n         number of the newest slot that was begun
--   <bucket id>|x         what has left the window: the sum of all earlier slots
-- A slot is a 59th of the window, so that sixty cover it at any moment.
-- Buckets whose scope clients make up (users, sessions, tags) are in an index of their own, so that they are dropped sooner.
local function index_of(index, id)
  local scope = string.match(id, '^[^|]*|([^|]*)|')
  if string.find(scope, 'user=', 1, true) or string.find(scope, 'session=', 1, true) or string.find(scope, 'tag:', 1, true) then
    return index .. ':scopes'
  end
  return index
end

-- When a window ends; a session's that never does is over when it was not used for seven days.
local function till_of(id, ends, now)
  if ends ~= '9007199254740991' or not string.find(id, 'session=', 1, true) then return ends end
  return string.format('%.0f', now + 604800000)
end

-- The field of the books that counts the scopes of a budget in a window.
local function scopes_of(id)
  local budget, label = string.match(id, '^([^|]*)|[^|]*|(.*)$')
  return budget .. '|' .. label .. '|k'
end

local function slot_length(id)
  local seconds = string.match(id, '|last%-(%d+)s')
  return seconds and math.ceil(seconds * 1000 / 59)
end

-- Begin the slot of this moment. Returns what is used in all, what of it has left the window, and the newest slot.
local function roll(books, index, id, length, now)
  local have = redis.call('HMGET', books, id, id .. '|x', id .. '|n')
  local used, gone, newest = tonumber(have[1] or 0), tonumber(have[2] or 0), tonumber(have[3] or -1)
  local slot = math.floor(now / length)
  if slot > newest then
    if newest >= 0 then
      for m = newest + 1, math.min(slot, newest + 60) do
        local field = id .. '|' .. m % 60
        local amount = redis.call('HGET', books, field)
        if amount then
          gone = gone + amount
          redis.call('HDEL', books, field)
        end
      end
      redis.call('HSET', books, id .. '|x', string.format('%.0f', gone))
    end
    newest = slot
    redis.call('HSET', books, id .. '|n', string.format('%.0f', slot))
    redis.call('ZADD', index_of(index, id), string.format('%.0f', (slot + 60) * length), id)
  end
  return used, gone, newest
end

-- Add to the slot of a moment; if that has left the window, to what has left it.
local function add_at(books, id, length, newest, at, amount)
  local slot = math.min(math.floor(at / length), newest or -1)
  local inside = newest and slot > newest - 60
  redis.call('HINCRBY', books, inside and id .. '|' .. slot % 60 or id .. '|x', string.format('%.0f', amount))
end
