-- Tells who was heard of just now, and learns who was heard of elsewhere.
--
-- KEYS[1]  the shard of peers
-- ARGV[1]  since when (milliseconds of this shard's clock)
-- ARGV[2]  how far back at most (milliseconds)
-- then     number, epoch, free bytes (each as it is stored) of those heard of here
--
-- Answers {now, {number, ...} of those heard of here who are not known (any more), {number, when,
-- epoch and free bytes, ...} of those heard of, {number, ...} of those who are gone}.
local shard = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- The clock of a replica that took over may be a little behind.
local since = math.max(math.min(tonumber(ARGV[1]), now - 1000), now - tonumber(ARGV[2]))
local unknown = {}
for i = 3, #ARGV, 3 do
    local peer, epoch = ARGV[i], ARGV[i + 1]
    local kept = redis.call('HGET', shard .. ':kept', peer)
    if not kept then
        unknown[#unknown + 1] = peer
    elseif kept:sub(1, 8) == epoch then
        redis.call('HSET', shard .. ':kept', peer, epoch .. ARGV[i + 2])
        redis.call('ZADD', shard .. ':seen', now, peer)
    end
end
local heard = {}
local seen = redis.call('ZRANGEBYSCORE', shard .. ':seen', since, '+inf', 'WITHSCORES')
for i = 1, #seen, 2 do
    local kept = redis.call('HGET', shard .. ':kept', seen[i])
    if kept then
        heard[#heard + 1] = seen[i]
        heard[#heard + 1] = seen[i + 1]
        heard[#heard + 1] = kept
    end
end
return {now, unknown, heard, redis.call('ZRANGEBYSCORE', shard .. ':gone', since, '+inf')}
