-- spent v1: a day's usage, if the day given is right.
-- KEYS  the day's usage
-- ARGV  what the caller takes for today
local today = math.floor(redis.call('TIME')[1] / 86400)
if today ~= tonumber(ARGV[1]) then return { today, {} } end
return { today, redis.call('HGETALL', KEYS[1]) }
