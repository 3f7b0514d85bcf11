-- settle v1: trues up what was charged.
-- KEYS  for each item: its counter, its reservations
-- ARGV  id; then for each item: kind, charged, used, reserved, units per second (bucket)
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local DAY = 86400000
local today = math.floor(now / DAY)

local function exact(n) return string.format('%.17g', n) end
local function whole(n) return string.format('%.0f', math.ceil(n)) end
local function lasting(key, ms) return whole(math.max(redis.call('PTTL', key), ms)) end

local id = ARGV[1]

local function bucket(counter, held, charged, used, reserved, rate)
  local delta = used - charged
  -- A reservation that is gone was given back in full.
  if reserved and redis.call('ZREM', held, id .. ':' .. exact(charged)) == 0 then delta = used end
  if delta == 0 then return end
  local tat = math.max(tonumber(redis.call('GET', counter)) or now, now)
  -- At `now` the bucket is full, and a refund makes it no fuller.
  tat = math.max(now, tat + delta / rate)
  redis.call('SET', counter, exact(tat), 'PX', lasting(counter, tat - now + 1000))
end

local function day(counter, held, charged, used, reserved)
  local state = redis.call('HMGET', counter, 'd', 'u')
  local stored, spent = tonumber(state[1]), tonumber(state[2])
  local current = math.max(today, stored or 0)
  if stored ~= current or not spent then spent = 0 end
  local delta = used - charged
  if reserved then
    local member = id .. ':' .. exact(charged) .. ':'
    if redis.call('ZREM', held, member .. whole(current)) == 0 then
      if redis.call('ZREM', held, member .. whole(current - 1)) == 1 then
        -- Charged to a day that is over: it keeps what it has, and today pays the rest.
        delta = math.max(0, delta)
      else
        delta = used
      end
    end
  end
  if delta == 0 then return end
  redis.call('HSET', counter, 'd', whole(current), 'u', exact(math.max(0, spent + delta)))
  redis.call('PEXPIRE', counter, whole((current + 1) * DAY - now + 1000))
end

for i = 1, #KEYS / 2 do
  local at = 1 + (i - 1) * 5
  local kind, counter, held = ARGV[at + 1], KEYS[2 * i - 1], KEYS[2 * i]
  local charged, used, reserved = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4] == '1'
  if kind == 'bucket' then
    bucket(counter, held, charged, used, reserved, tonumber(ARGV[at + 5]) / 1000)
  elseif kind == 'day' then
    day(counter, held, charged, used, reserved)
  else
    redis.call('ZREM', counter, id)
  end
end
return 1
