-- Ends the session of a peer: 1 when there was one.
--
-- KEYS[1]  the shard of peers
-- ARGV[1]  its number
local row = redis.call('HGET', KEYS[1] .. ':rows', ARGV[1])
if not row then
    return 0
end
local site, url = struct.unpack('>I1I2', row, 67)
local without = row:sub(1, 69 + site + url)
if without == row then
    return 0
end
redis.call('HSET', KEYS[1] .. ':rows', ARGV[1], without)
return 1
