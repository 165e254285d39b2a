-- expect.lua: remember answers whose ratings teach something; the oldest give way.
-- KEYS[1]  answers      hash: `part` -> which of the others is written to, from 0; `n` -> how many answers are in it
-- KEYS[2..]  parts      hashes: request -> who may rate it, the rating that counts or '', when that came (ms), and what it teaches, by line
-- ARGV[1]  most answers in one part
-- ARGV[2]  a request, then its row; and so on. What is there already stays
local part = tonumber(redis.call('HGET', KEYS[1], 'part') or '0')
local n = tonumber(redis.call('HGET', KEYS[1], 'n') or '0')
for i = 2, #ARGV, 2 do
  if n >= tonumber(ARGV[1]) then
    part, n = (part + 1) % (#KEYS - 1), 0
    redis.call('DEL', KEYS[2 + part])
  end
  n = n + redis.call('HSETNX', KEYS[2 + part], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'part', part, 'n', n)
return 1
