#!lua flags=allow-oom
-- controls.lua: replace what is kept of controls, and the limits that follow from it; all or nothing.
-- KEYS[1]  books            hash (see `keys.py`)
-- KEYS[2]  limits:version   string: the configuration that published the limits, and the fields it wrote, a line each
-- KEYS[3]  controls         hash: v version, s what is kept
-- KEYS[4]  audit            stream: one entry per change, field e
-- ARGV[1]  version that must be kept now, '0' if none is     ARGV[2]  its successor     ARGV[3]  what to keep
-- ARGV[4]  how many entries follow, then these; then, if the limits change: configuration, field, limit, ...
-- Returns 1; 0 if another version is kept, and nothing was written.
if (redis.call('HGET', KEYS[3], 'v') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[3], 'v', ARGV[2], 's', ARGV[3])
local at = 5 + ARGV[4]
for i = 5, at - 1 do redis.call('XADD', KEYS[4], '*', 'e', ARGV[i]) end
if #ARGV < at then return 1 end
local before = redis.call('GET', KEYS[2]) or ''
for field in string.gmatch(before, '\n([^\n]+)') do
  redis.call('HDEL', KEYS[1], field)
end
local lines = {ARGV[at]}
for i = at + 1, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  lines[#lines + 1] = ARGV[i]
end
redis.call('SET', KEYS[2], table.concat(lines, '\n'))
return 1
