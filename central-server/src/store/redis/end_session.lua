-- Ends the sessions of peers, as far as they are still those. Answers how many there were.
--
-- KEYS[1]  the shard of peers
-- ARGV     their numbers, each with the hash of its session's token
local ended = 0
for i = 1, #ARGV, 2 do
    local peer, token = ARGV[i], ARGV[i + 1]
    local row = redis.call('HGET', KEYS[1] .. ':rows', peer)
    if row then
        local site, url = struct.unpack('>I1I2', row, 67)
        local rest = 69 + site + url
        -- Behind the stamp of the account.
        if row:sub(rest + 9, rest + 40) == token then
            redis.call('HSET', KEYS[1] .. ':rows', peer, row:sub(1, rest))
            ended = ended + 1
        end
    end
end
return ended
