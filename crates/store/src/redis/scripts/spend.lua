-- spend v1: adds to a day's usage, if that day is today.
-- KEYS  the day's usage
-- ARGV  day, how long it is kept in ms; then for each entry: whose, requests, prompt, completion, cached, micro_usd
-- Gives today; nothing was added where that is not the day given.
local today = math.floor(redis.call('TIME')[1] / 86400)
if today ~= tonumber(ARGV[1]) then return today end
local fields = { 'r', 'p', 'c', 'k' }
for at = 3, #ARGV, 6 do
  for i = 1, 4 do
    if ARGV[at + i] ~= '0' then redis.call('HINCRBY', KEYS[1], fields[i] .. ARGV[at], ARGV[at + i]) end
  end
  if tonumber(ARGV[at + 5]) ~= 0 then redis.call('HINCRBYFLOAT', KEYS[1], 'u' .. ARGV[at], ARGV[at + 5]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return today
