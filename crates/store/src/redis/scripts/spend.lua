-- spend v2: adds to a day's usage, if that day is today; all of it or nothing.
-- KEYS  the day's usage
-- ARGV  day, how long it is kept in ms; then for each entry: whose, requests, prompt, completion, cached, micro_usd
-- Gives today; nothing was added where that is not the day given.
-- Sums stop at 2^53, beyond which they would no longer be exact.
local today = math.floor(redis.call('TIME')[1] / 86400)
if today ~= tonumber(ARGV[1]) then return today end
local MOST = 9007199254740992
local fields = { 'r', 'p', 'c', 'k', 'u' }
local sums, names = {}, {}
for at = 3, #ARGV, 6 do
  for i = 1, 5 do
    local more = tonumber(ARGV[at + i])
    if more ~= 0 then
      local name = fields[i] .. ARGV[at]
      if not sums[name] then
        sums[name] = tonumber(redis.call('HGET', KEYS[1], name) or 0)
        if not sums[name] then return redis.error_reply('ERR the usage of a day is not a number') end
        names[#names + 1] = name
      end
      sums[name] = math.min(sums[name] + more, MOST)
    end
  end
end
-- Nothing below fails once it has begun to write.
local AT_ONCE = 1000
for from = 1, #names, AT_ONCE do
  local written = {}
  for at = from, math.min(from + AT_ONCE - 1, #names) do
    written[#written + 1] = names[at]
    written[#written + 1] = string.format('%.17g', sums[names[at]])
  end
  redis.call('HSET', KEYS[1], unpack(written))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return today
