-- settle v1: trues up what was charged.
-- KEYS  for each item: its counter, its reservations
-- ARGV  id; then for each item: kind, charged, used, reserved, units per second and burst (bucket)
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local DAY = 86400000
local today = math.floor(now / DAY)

local function exact(n) return string.format('%.17g', n) end
local function whole(n) return string.format('%.0f', math.ceil(n)) end
-- As in charge: no debt takes longer to fill, and no key is kept longer.
local LONGEST = 3650 * DAY
local KEPT = 36500 * DAY
local function lasting(key, ms) return whole(math.min(math.max(redis.call('PTTL', key), ms), KEPT)) end

local id = ARGV[1]

-- A reservation goes only after its counter is written: one that a full server keeps from being written stays, and
-- runs out by itself.
local function bucket(counter, held, charged, used, reserved, rate, burst)
  local delta, member = used - charged, id .. ':' .. exact(charged)
  -- A reservation that is gone was given back in full.
  if reserved and not redis.call('ZSCORE', held, member) then delta = used end
  if delta ~= 0 then
    local tat = math.max(tonumber(redis.call('GET', counter)) or now, now)
    -- At `now` the bucket is full, and a refund makes it no fuller.
    tat = math.max(now, math.min(tat + delta / rate, now + math.max(burst / rate, LONGEST)))
    redis.call('SET', counter, exact(tat), 'PX', lasting(counter, tat - now + 1000))
  end
  if reserved then redis.call('ZREM', held, member) end
end

local function day(counter, held, charged, used, reserved)
  local state = redis.call('HMGET', counter, 'd', 'u', 'h')
  local stored, spent, kept = tonumber(state[1]), tonumber(state[2]), tonumber(state[3]) or 0
  local current = math.max(today, stored or 0)
  if stored ~= current or not spent then spent, kept = 0, 0 end
  local delta, member, back = used - charged, nil, 0
  if reserved then
    member = id .. ':' .. exact(charged) .. ':' .. whole(current)
    if redis.call('ZSCORE', held, member) then
      back = charged
    else
      member = id .. ':' .. exact(charged) .. ':' .. whole(current - 1)
      -- Charged to a day that is over: it keeps what it has, and today pays the rest.
      delta = redis.call('ZSCORE', held, member) and math.max(0, delta) or used
    end
  end
  if delta ~= 0 or back ~= 0 then
    spent, kept = math.max(0, spent + delta), math.max(0, kept - back)
    redis.call('HSET', counter, 'd', whole(current), 'u', exact(spent), 'h', exact(kept))
    redis.call('PEXPIRE', counter, whole((current + 1) * DAY - now + 1000))
  end
  if reserved then redis.call('ZREM', held, member) end
end

for i = 1, #KEYS / 2 do
  local at = 1 + (i - 1) * 6
  local kind, counter, held = ARGV[at + 1], KEYS[2 * i - 1], KEYS[2 * i]
  local charged, used, reserved = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4] == '1'
  if kind == 'bucket' then
    bucket(counter, held, charged, used, reserved, tonumber(ARGV[at + 5]) / 1000, tonumber(ARGV[at + 6]))
  elseif kind == 'day' then
    day(counter, held, charged, used, reserved)
  else
    redis.call('ZREM', counter, id)
  end
end
return 1
