-- Resources whose ids begin alike, each with holders.
--
-- KEYS[1]  the part
-- ARGV[1]  what the ids begin with
-- ARGV[2]  the peer's number from which the holders are walked; the walk wraps around
-- ARGV[3]  resources at most
-- ARGV[4]  holders at most, of all of them
-- ARGV[5]  holders at most, of one of them
-- ARGV[6]  a random number: the place from which resources are walked where there may be more than
--          are answered; the walk wraps around, and nobody hides for good what others announce
-- then     only these peers; none: all
--
-- Answers {row, holders, row, holders, ...}; holders are numbers of four bytes.
local part, prefix = KEYS[1], ARGV[1]
local rows, holders = part .. ':rows', part .. ':holders'
local start, budget = struct.pack('>I4', tonumber(ARGV[2])), tonumber(ARGV[4])
local last = '\255\255\255\255'

local function peers(found, from, to, limit)
    if limit > 0 then
        for _, holder in ipairs(redis.call('ZRANGEBYLEX', holders, from, to, 'LIMIT', 0, limit)) do
            found[#found + 1] = holder:sub(25)
        end
    end
end

local answer = {}
local from, to = '[' .. prefix, '[' .. prefix .. ('\255'):rep(28 - #prefix)
local variants, before = tonumber(ARGV[3]), nil
local function first_row()
    return redis.call('ZRANGEBYLEX', holders, from, to, 'LIMIT', 0, 1)[1]
end
-- Ids go on with a hash behind the prefix: each is as likely to be the first one after the place.
if #prefix < 24 and redis.call('ZLEXCOUNT', holders, from, to) > variants then
    local place = prefix .. struct.pack('>I4', tonumber(ARGV[6])):sub(1, 24 - #prefix)
    before = { from, '(' .. place }
    from = '[' .. place
end
for _ = 1, variants do
    local first = first_row()
    if not first and before then
        from, to = before[1], before[2]
        before = nil
        first = first_row()
    end
    if not first or budget <= 0 then
        break
    end
    local id = first:sub(1, 24)
    local found = {}
    if #ARGV > 6 then
        for i = 7, #ARGV do
            local peer = struct.pack('>I4', tonumber(ARGV[i]))
            if redis.call('ZSCORE', holders, id .. peer) then
                found[#found + 1] = peer
            end
        end
    else
        local limit = math.min(budget, tonumber(ARGV[5]))
        peers(found, '[' .. id .. start, '[' .. id .. last, limit)
        peers(found, '[' .. id, '(' .. id .. start, limit - #found)
    end
    budget = budget - #found
    answer[#answer + 1] = redis.call('HGET', rows, id)
    answer[#answer + 1] = table.concat(found)
    from = '(' .. id .. last
end
return answer
