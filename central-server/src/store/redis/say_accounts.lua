-- A locator says with which accounts it runs, until it says so again or no more.
--
-- KEYS[1]  the store
-- ARGV[1]  the locator
-- ARGV[2]  'open', 'closed', 'off'; or nothing: it runs no more
-- ARGV[3]  for how many milliseconds that holds
--
-- Answers with which others another one runs, if one does; then nothing is said.
local key = KEYS[1] .. ':accounts'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
local others
for _, said in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local accounts, locator = said:match('^(%S+) (%S+)$')
    if locator == ARGV[1] then
        redis.call('ZREM', key, said)
    elseif accounts ~= ARGV[2] then
        others = accounts
    end
end
if ARGV[2] == '' then
    return false
end
if others then
    return others
end
redis.call('ZADD', key, now + tonumber(ARGV[3]), ARGV[2] .. ' ' .. ARGV[1])
return false
