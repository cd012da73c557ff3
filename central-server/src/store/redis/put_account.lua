-- Stores an account, or removes it: 1 when it is so now.
--
-- KEYS[1]  the shard of accounts
-- ARGV[1]  the user
-- ARGV[2]  'absent' or 'present', as it must be, or 'remove'
-- ARGV[3]  the account
local rows, users, user = KEYS[1] .. ':rows', KEYS[1] .. ':users', ARGV[1]
if ARGV[2] == 'remove' then
    redis.call('HDEL', rows, user)
    redis.call('ZREM', users, user)
    return 1
end
local known = redis.call('HGET', rows, user)
-- The same account is this very change, asked for again: a stamp is random.
if known ~= ARGV[3] and (known and 'present' or 'absent') ~= ARGV[2] then
    return 0
end
redis.call('HSET', rows, user, ARGV[3])
redis.call('ZADD', users, 0, user)
return 1
