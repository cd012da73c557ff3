-- Some of what a peer holds in one part: {holding, row, holding, row, ...}.
--
-- KEYS[1]  the part
-- ARGV[1]  the peer's number
-- ARGV[2]  the range of holdings: from,
-- ARGV[3]  to,
-- ARGV[4]  and how many at most
local answer = {}
local held = KEYS[1] .. ':held:' .. ARGV[1]
for _, holding in ipairs(redis.call('ZRANGEBYLEX', held, ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])) do
    answer[#answer + 1] = holding
    answer[#answer + 1] = redis.call('HGET', KEYS[1] .. ':rows', holding:sub(2))
end
return answer
