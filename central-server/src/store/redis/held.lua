-- Some of what a peer holds in one part: {row, row, ...}.
--
-- KEYS[1]  the part
-- ARGV[1]  the peer's number
-- ARGV[2]  how many at most
local answer = {}
local held = redis.call('ZRANGEBYLEX', KEYS[1] .. ':held:' .. ARGV[1], '-', '+', 'LIMIT', 0, ARGV[2])
for _, holding in ipairs(held) do
    answer[#answer + 1] = redis.call('HGET', KEYS[1] .. ':rows', holding:sub(2))
end
return answer
