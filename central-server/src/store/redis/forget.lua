-- Removes a peer that is gone since a time or earlier: {1 or 0, peers of the shard}.
--
-- KEYS[1]  the shard of peers
-- ARGV[1]  its number
-- ARGV[2]  that time
local shard, peer, done = KEYS[1], ARGV[1], 0
local row = redis.call('HGET', shard .. ':rows', peer)
if row and row:byte(57) == 1 and struct.unpack('>i8', row, 59) <= tonumber(ARGV[2]) then
    redis.call('HDEL', shard .. ':rows', peer)
    redis.call('ZREM', shard .. ':gone', peer)
    done = 1
end
return {done, redis.call('HLEN', shard .. ':rows')}
