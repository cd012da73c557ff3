-- Rows of the index of terms of one part, with their resources and some holders.
--
-- KEYS[1]  the part
-- ARGV[1]  from (a bound of ZRANGEBYLEX)
-- ARGV[2]  to
-- ARGV[3]  rows at most
-- ARGV[4]  the peer's number from which the holders are walked; the walk wraps around
-- ARGV[5]  holders of a resource at most
--
-- Answers {index row, row of the resource or '', holders, ...}.
local part = KEYS[1]
local rows, holders = part .. ':rows', part .. ':holders'
local start, limit = struct.pack('>I4', tonumber(ARGV[4])), tonumber(ARGV[5])

local function peers(found, from, to, most)
    if most > 0 then
        for _, holder in ipairs(redis.call('ZRANGEBYLEX', holders, from, to, 'LIMIT', 0, most)) do
            found[#found + 1] = holder:sub(25)
        end
    end
end

local answer = {}
for _, term in ipairs(redis.call('ZRANGEBYLEX', part .. ':terms', ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
    -- The id is at the end, its key last.
    local id = term:sub(-8) .. term:sub(-24, -9)
    local found = {}
    peers(found, '[' .. id .. start, '[' .. id .. '\255\255\255\255', limit)
    peers(found, '[' .. id, '(' .. id .. start, limit - #found)
    answer[#answer + 1] = term
    answer[#answer + 1] = redis.call('HGET', rows, id) or ''
    answer[#answer + 1] = table.concat(found)
end
return answer
