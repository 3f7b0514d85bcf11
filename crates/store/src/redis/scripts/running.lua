-- running v1: entries that still run. One that is not there has ended: a late renewal does not bring it back.
-- KEYS  for each entry: its counter
-- ARGV  lives in ms; then for each entry: its id
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local lives = tonumber(ARGV[1])
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], 'XX', string.format('%.17g', now + lives), ARGV[1 + i])
  local left = math.max(redis.call('PTTL', KEYS[i]), lives)
  redis.call('PEXPIRE', KEYS[i], string.format('%.0f', math.ceil(left)))
end
return 1
