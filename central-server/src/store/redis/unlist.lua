-- Removes index rows of resources that are gone, unless they came back meanwhile.
--
-- KEYS[1]  the part
-- then     id, how many terms, the terms
local next_arg = 1
while next_arg <= #ARGV do
    local id, more = ARGV[next_arg], tonumber(ARGV[next_arg + 1])
    if redis.call('HEXISTS', KEYS[1] .. ':rows', id) == 0 then
        for term = next_arg + 2, next_arg + 1 + more do
            redis.call('ZREM', KEYS[1] .. ':terms', ARGV[term])
        end
    end
    next_arg = next_arg + 2 + more
end
return 1
