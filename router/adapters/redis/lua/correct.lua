#!lua
-- correct.lua: change charges of calls that ended long ago; all or nothing, and only if nobody else did meanwhile.
-- KEYS[1]  books        hash (see `keys.py`)         KEYS[2]  log      stream (see settle.lua)
-- KEYS[3]  corrections  string: how often this was done     KEYS[4]  audit  stream: one entry per change, field e
-- ARGV[1]  what KEYS[3] must be now                  ARGV[2]  entry of the audit log
-- ARGV[3]  and on, for each correction: attempt key, nano-USD to add, when the call was made, ms, bucket ids, joined by tabs, record
-- Returns 1; 0 if KEYS[3] is something else, and nothing was written.
-- Only buckets that still have a counter are changed, and only these stand in the log: the others are forgotten.
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[1] then return 0 end
-- @include rolling
for i = 3, #ARGV, 5 do
  local by, changed = ARGV[i + 1], {}
  for id in string.gmatch(ARGV[i + 3], '[^\t]+') do
    if redis.call('HEXISTS', KEYS[1], id) == 1 then
      changed[#changed + 1] = id
      redis.call('HINCRBY', KEYS[1], id, by)
      redis.call('HINCRBY', KEYS[1], id .. '|s', by)
      local length = slot_length(id)
      if length then
        local newest = redis.call('HGET', KEYS[1], id .. '|n')
        add_at(KEYS[1], id, length, newest and tonumber(newest), tonumber(ARGV[i + 2]), tonumber(by))
      end
    end
  end
  redis.call('XADD', KEYS[2], '*', 'r', ARGV[i + 4], 'a', ARGV[i], 'b', table.concat(changed, '\t'), 's', by, 'h', 0)
end
redis.call('XADD', KEYS[4], '*', 'e', ARGV[2])
redis.call('SET', KEYS[3], string.format('%.0f', ARGV[1] + 1))
return 1
