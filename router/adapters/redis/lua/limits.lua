#!lua flags=allow-oom
-- limits.lua: replace the limits of all budgets.
-- KEYS[1]  books      hash (see `keys.py`)
-- KEYS[2]  limits:version   string: the configuration that published them, and the fields it wrote, a line each
-- ARGV[1]  configuration    ARGV[2..]  field, limit in nano-USD, ...
-- Returns 1.
local before = redis.call('GET', KEYS[2]) or ''
for field in string.gmatch(before, '\n([^\n]+)') do
  redis.call('HDEL', KEYS[1], field)
end
local lines = {ARGV[1]}
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  lines[#lines + 1] = ARGV[i]
end
redis.call('SET', KEYS[2], table.concat(lines, '\n'))
return 1
