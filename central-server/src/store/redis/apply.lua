-- Changes what a peer holds in one part, at once. Applying it twice is applying it once.
--
-- KEYS[1]  the part
-- ARGV[1]  the peer's number
-- ARGV[2]  '' or the range of holdings that go unless they are announced here: from,
-- ARGV[3]  to,
-- ARGV[4]  and how many of them at most (0: all)
-- ARGV[5]  how many withdrawals follow: bucket, key, hash of name and digest
-- then     the records announced, each: bucket and id, its row, how many terms, the terms
--
-- Answers {records of the part, resources of the part, {bucket, its records, ...}, {rows of
-- resources that are gone, ...}, how many holdings went by the range}.
local part, peer = KEYS[1], struct.pack('>I4', tonumber(ARGV[1]))
local rows, holders, terms = part .. ':rows', part .. ':holders', part .. ':terms'
local held, sums = part .. ':held:' .. ARGV[1], part .. ':sums:' .. ARGV[1]

-- Sum (four words) and number of the records under a field of `sums`, kept until the end.
local changed = {}
local function sum_of(field)
    local sum = changed[field]
    if not sum then
        local stored = redis.call('HGET', sums, field)
        sum = stored and {struct.unpack('<I4I4I4I4I4', stored)} or {0, 0, 0, 0, 0}
        changed[field] = sum
    end
    return sum
end

local function count(field, share, sign)
    local sum, carry = sum_of(field), 0
    local words = {struct.unpack('<I4I4I4I4', share)}
    for i = 1, 4 do
        local word = sum[i] + sign * words[i] + carry
        carry = math.floor(word / 4294967296)
        sum[i] = word - carry * 4294967296
    end
    sum[5] = sum[5] + sign
end

local gone = {}
local function remove(holding)
    if redis.call('ZREM', held, holding) == 0 then
        return
    end
    local id = holding:sub(2)
    redis.call('ZREM', holders, id .. peer)
    local row = redis.call('HGET', rows, id)
    if not row then
        return
    end
    count(holding:sub(1, 1), row:sub(1, 16), -1)
    count('all', row:sub(1, 16), -1)
    local last = redis.call('ZRANGEBYLEX', holders, '[' .. id, '[' .. id .. '\255\255\255\255', 'LIMIT', 0, 1)
    if #last == 0 then
        redis.call('HDEL', rows, id)
        gone[#gone + 1] = row
    end
end

-- What the peer holds of a bucket, name and digest, whatever its size.
local function of_prefix(prefix)
    return redis.call('ZRANGEBYLEX', held, '[' .. prefix, '[' .. prefix .. ('\255'):rep(8))
end

local next_arg = 6
for _ = 1, tonumber(ARGV[5]) do
    for _, holding in ipairs(of_prefix(ARGV[next_arg])) do
        remove(holding)
    end
    next_arg = next_arg + 1
end

local stale = {}
if ARGV[2] ~= '' then
    local limit = tonumber(ARGV[4])
    local range = {'ZRANGEBYLEX', held, ARGV[2], ARGV[3]}
    if limit > 0 then
        range[5], range[6], range[7] = 'LIMIT', 0, limit
    end
    for _, holding in ipairs(redis.call(unpack(range))) do
        stale[holding] = true
    end
end

while next_arg <= #ARGV do
    local holding, row, more = ARGV[next_arg], ARGV[next_arg + 1], tonumber(ARGV[next_arg + 2])
    next_arg = next_arg + 3
    stale[holding] = nil
    local known = false
    for _, other in ipairs(of_prefix(holding:sub(1, 17))) do
        if other == holding then
            known = true
        else
            -- The same name and digest with another size cannot both be right: the newer word counts.
            stale[other] = nil
            remove(other)
        end
    end
    if not known then
        local id = holding:sub(2)
        redis.call('ZADD', held, 0, holding)
        redis.call('ZADD', holders, 0, id .. peer)
        if redis.call('HSETNX', rows, id, row) == 1 then
            for term = next_arg, next_arg + more - 1 do
                redis.call('ZADD', terms, 0, ARGV[term])
            end
        end
        count(holding:sub(1, 1), row:sub(1, 16), 1)
        count('all', row:sub(1, 16), 1)
    end
    next_arg = next_arg + more
end

local went = 0
for holding, _ in pairs(stale) do
    remove(holding)
    went = went + 1
end

local counts = {}
for field, sum in pairs(changed) do
    if sum[5] == 0 then
        redis.call('HDEL', sums, field)
    else
        redis.call('HSET', sums, field, struct.pack('<I4I4I4I4I4', unpack(sum)))
    end
    if #field == 1 then
        counts[#counts + 1] = field
        counts[#counts + 1] = tostring(sum[5])
    end
end
return {redis.call('ZCARD', holders), redis.call('HLEN', rows), counts, gone, went}
