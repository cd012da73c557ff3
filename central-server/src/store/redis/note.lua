-- Writes something down about the store, or strikes it out.
--
-- KEYS[1]  the store
-- ARGV[1]  what
-- ARGV[2]  what of it; nothing strikes it out
local key = KEYS[1] .. ':' .. ARGV[1]
if ARGV[2] == '' then
    redis.call('DEL', key)
else
    redis.call('SET', key, ARGV[2])
end
return 1
