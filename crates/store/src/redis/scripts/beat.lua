-- beat v1: a node says that it is there, and hears who else is and which cool-downs run.
-- KEYS  nodes, cool-downs, epoch
-- ARGV  node, payload, lives in ms, a new epoch in case there is none, how long the epoch lives in ms
-- Gives epoch; node, payload, age in ms of each; name, ms left of each cool-down.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local function whole(n) return string.format('%.0f', math.ceil(n)) end

local lives = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], whole(now) .. ' ' .. whole(lives) .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], whole(math.max(redis.call('PTTL', KEYS[1]), lives)))

local epoch = redis.call('GET', KEYS[3]) or ARGV[4]
redis.call('SET', KEYS[3], epoch, 'PX', ARGV[5])

local nodes, said = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #said, 2 do
  local seen, lived, payload = string.match(said[i + 1], '^(%d+) (%d+) (.*)$')
  local age = seen and now - seen
  -- Far in the future: said by the clock of a master that is no more.
  if not seen or math.abs(age) > tonumber(lived) then
    redis.call('HDEL', KEYS[1], said[i])
  else
    nodes[#nodes + 1] = said[i]
    nodes[#nodes + 1] = payload
    nodes[#nodes + 1] = whole(math.max(0, age))
  end
end

local cool, resting = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #resting, 2 do
  local left = tonumber(resting[i + 1]) - now
  if left <= 0 then
    redis.call('HDEL', KEYS[2], resting[i])
  else
    cool[#cool + 1] = resting[i]
    cool[#cool + 1] = whole(left)
  end
end
return { epoch, nodes, cool }
