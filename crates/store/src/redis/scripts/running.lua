-- running v1: entries that still run. One that is not there has ended: a late renewal does not bring it back.
-- KEYS  for each entry: its counter
-- ARGV  lives in ms; then for each entry: its id
-- Gives 1, or the first error when all is done
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local lives = tonumber(ARGV[1])
local failed
for i = 1, #KEYS do
  -- One that is none of ours keeps no other from being renewed.
  local added = redis.pcall('ZADD', KEYS[i], 'XX', string.format('%.17g', now + lives), ARGV[1 + i])
  if type(added) == 'table' and added.err then
    failed = failed or added
  else
    local left = math.max(redis.call('PTTL', KEYS[i]), lives)
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', math.ceil(left)))
  end
end
return failed or 1
