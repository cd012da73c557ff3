-- Marks peers as gone.
--
-- KEYS[1]  the shard of peers
-- ARGV[1]  when, as it is stored
-- ARGV[2]  only those of whom nothing was heard for so many milliseconds
-- then     number, token hash
local shard = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 3, #ARGV, 2 do
    local peer = ARGV[i]
    local row = redis.call('HGET', shard .. ':rows', peer)
    if row and row:sub(25, 56) == ARGV[i + 1] and row:byte(57) == 0 then
        local seen = tonumber(redis.call('ZSCORE', shard .. ':seen', peer) or 0)
        if now - seen >= tonumber(ARGV[2]) then
            row = row:sub(1, 56) .. '\1' .. row:sub(58, 58) .. ARGV[1] .. row:sub(67)
            redis.call('HSET', shard .. ':rows', peer, row)
            redis.call('HDEL', shard .. ':kept', peer)
            redis.call('ZREM', shard .. ':seen', peer)
            redis.call('ZADD', shard .. ':gone', now, peer)
        end
    end
end
return 1
