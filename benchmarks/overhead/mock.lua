-- mock.lua: the provider behind every proxy that is measured. Served by nginx, so that it costs next to nothing itself.
-- A request steers it by two fields that every proxy passes on:
--   stream  false: one JSON answer at once; true: 54 server-sent events, one write each
--   seed    milliseconds to wait before each event
local pieces = {}
for n = 1, 50 do
  pieces[n] = (n % 10 == 0) and " over the bridge," or " platform " .. n
end

local usage = '"usage":{"prompt_tokens":311,"completion_tokens":105,"total_tokens":416,'
  .. '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}}'

local answer = '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1760000000,"model":"mock","choices":[{"index":0,'
  .. '"message":{"role":"assistant","content":"' .. table.concat(pieces) .. '","refusal":null,"annotations":[]},"logprobs":null,'
  .. '"finish_reason":"stop"}],' .. usage .. ',"service_tier":"default","system_fingerprint":"fp_0123456789"}'

local function event(delta, finish)
  return 'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1760000000,"model":"mock",'
    .. '"service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":' .. delta
    .. ',"logprobs":null,"finish_reason":' .. finish .. "}]}\n\n"
end

local events = { event('{"role":"assistant","content":"","refusal":null}', "null") }
for n = 1, 50 do
  events[#events + 1] = event('{"content":"' .. pieces[n] .. '"}', "null")
end
events[#events + 1] = event("{}", '"stop"')
events[#events + 1] = 'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1760000000,"model":"mock",'
  .. '"choices":[],' .. usage .. "}\n\n"
events[#events + 1] = "data: [DONE]\n\n"

return function()
  ngx.req.read_body()
  local body = ngx.req.get_body_data() or ""
  -- Both fields stand before the messages: the search ends early in a long body, too.
  if body:match('"stream"%s*:%s*(%a+)') ~= "true" then
    ngx.header["content-length"] = #answer
    ngx.print(answer)
    return
  end
  local gap = tonumber(body:match('"seed"%s*:%s*(%d+)') or 0) / 1000
  ngx.header["content-type"] = "text/event-stream; charset=utf-8"
  for n = 1, #events do
    if gap > 0 then ngx.sleep(gap) end
    ngx.print(events[n])
    ngx.flush(true)
  end
end
