-- cool v1: shares a cool-down; one that runs is never shortened.
-- KEYS  cool-downs
-- ARGV  name, ms left, channel for hints, node
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local left = tonumber(ARGV[2])
local running = tonumber(redis.call('HGET', KEYS[1], ARGV[1]))
if running and running >= now + left then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.17g', now + left))
local lives = math.max(redis.call('PTTL', KEYS[1]), left)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(lives)))
-- A user without rights on the channel shares cool-downs all the same.
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 1
