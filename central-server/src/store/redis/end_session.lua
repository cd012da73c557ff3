-- Ends the sessions of peers. Answers how many there were.
--
-- KEYS[1]  the shard of peers
-- ARGV     their numbers
local ended = 0
for _, peer in ipairs(ARGV) do
    local row = redis.call('HGET', KEYS[1] .. ':rows', peer)
    if row then
        local site, url = struct.unpack('>I1I2', row, 67)
        local without = row:sub(1, 69 + site + url)
        if without ~= row then
            redis.call('HSET', KEYS[1] .. ':rows', peer, without)
            ended = ended + 1
        end
    end
end
return ended
