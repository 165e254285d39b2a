-- count.lua: have ratings count in place of what counted before.
-- KEYS     as in expect.lua
-- ARGV     a request, who rates it, the rating, when (ms); and so on
-- Returns for each: '' if no such answer is remembered; the rating that counted before, a line break, and what the answer teaches;
-- a line break alone if it teaches nothing: of another's answer, older than what counts, or the same.
local told = {}
for i = 1, #ARGV, 4 do
  local found = ''
  for part = 2, #KEYS do
    local row = redis.call('HGET', KEYS[part], ARGV[i])
    if row then
      local who, before, at, lessons = row:match('^(.-)\n(.-)\n(.-)\n(.*)$')
      found = '\n'
      if who == ARGV[i + 1] and tonumber(at) <= tonumber(ARGV[i + 3]) and before ~= ARGV[i + 2] then
        redis.call('HSET', KEYS[part], ARGV[i], who .. '\n' .. ARGV[i + 2] .. '\n' .. ARGV[i + 3] .. '\n' .. lessons)
        found = before .. '\n' .. lessons
      end
      break
    end
  end
  told[#told + 1] = found
end
return told
