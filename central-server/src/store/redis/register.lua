-- Adds a peer, or replaces what was known of it.
--
-- KEYS[1]  the shard of peers
-- ARGV[1]  its number
-- ARGV[2]  its id
-- ARGV[3]  its row, without the epoch before it
--
-- Answers {epoch, peers of the shard, 1 if the row is new or else 0}, or nothing when the number is another peer's.
local shard, peer = KEYS[1], ARGV[1]
local old = redis.call('HGET', shard .. ':rows', peer)
if old and old:sub(9, 24) ~= ARGV[2] then
    return false
end
local time = redis.call('TIME')
local epoch = tonumber(time[1]) * 1000000 + tonumber(time[2])
if old then
    epoch = math.max(epoch, struct.unpack('>I8', old) + 1)
end
local bytes = struct.pack('>I8', epoch)
redis.call('HSET', shard .. ':rows', peer, bytes .. ARGV[3])
redis.call('HSET', shard .. ':kept', peer, bytes .. struct.pack('>I8', 0))
redis.call('ZADD', shard .. ':seen', math.floor(epoch / 1000), peer)
redis.call('ZREM', shard .. ':gone', peer)
-- More digits than a number may have in an answer.
return {string.format('%.0f', epoch), redis.call('HLEN', shard .. ':rows'), old and 0 or 1}
