-- charge v1: takes from several counters of a group, all or nothing.
-- KEYS  for each debit: its counter, its reservations
-- ARGV  id, lives in ms; then for each debit: kind, cost, extra, reserved, known, known day, three figures:
--       bucket: per second, burst, patience in ms; day: limit; running: limit, lives in ms
-- Gives admitted (1 or 0), who waits longest (from 0), retry in ms; then for each debit: extra, left, reset in ms,
--       wait in ms, mark, day, spent (1 or 0)
-- What has lapsed is given back, and a counter that was lost begins again, even when the charge is denied.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local DAY = 86400000
local today = math.floor(now / DAY)
-- Times near 2^41 ms are exact to a quarter of a microsecond.
local SLIP = 0.001
-- No debt takes longer to fill (ten years), and no key is kept longer (a hundred): PX and PEXPIRE take no number.
local LONGEST = 3650 * DAY
local KEPT = 36500 * DAY

local function exact(n) return string.format('%.17g', n) end
local function whole(n) return string.format('%.0f', math.ceil(n)) end

-- Marks that were given out outlast a refund, so no key may go before the last of them is past.
local function lasting(key, ms) return whole(math.min(math.max(redis.call('PTTL', key), ms), KEPT)) end

-- The reservations that nobody settled in time; at most 100 at once, the rest by later charges.
local function lapsed(key)
  local gone = redis.call('ZRANGEBYSCORE', key, '-inf', exact(now), 'LIMIT', 0, 100)
  if #gone > 0 then redis.call('ZREM', key, unpack(gone)) end
  return gone
end

-- All of a day was used, reservations aside: they may come back at any moment.
-- No room for it even when all that is reserved is given back.
local function spent(d)
  local really = d.used - d.kept
  return really + d.cost > d.limit + 1e-9 * math.max(d.limit, 1)
end

local kinds = {}

kinds.bucket = {
  read = function(d)
    d.rate, d.burst, d.patience = d.x / 1000, d.y, d.z
    d.cost = math.min(d.cost, d.burst)
    local tat = tonumber(redis.call('GET', d.counter))
    if not tat then
      tat = now
      if d.known and d.known > now then
        tat = math.max(d.known, now + d.burst / d.rate / 2)
        d.stale = true
      end
    end
    for _, member in ipairs(lapsed(d.held)) do
      local amount = tonumber(string.match(member, '^[^:]*:([^:]*)'))
      if amount and tat > now then tat = math.max(now, tat - amount / d.rate) end
      d.stale = true
    end
    d.tat = math.min(math.max(tat, now), now + math.max(d.burst / d.rate, LONGEST))
    d.wait = d.tat - now - (d.burst - d.cost) / d.rate
    -- What costs nothing is had even in debt.
    if d.wait <= SLIP or d.cost == 0 then d.wait = 0 end
    d.retry = d.wait - d.patience
    d.ok = d.retry <= 0
  end,
  take = function(d)
    local free = math.floor(d.burst - (d.tat - now) * d.rate - d.cost + SLIP * d.rate)
    if d.wait == 0 and d.extra > 0 and free > 0 then d.granted = math.min(math.floor(d.extra), free) end
    d.tat = d.tat + (d.cost + d.granted) / d.rate
  end,
  write = function(d)
    redis.call('SET', d.counter, exact(d.tat), 'PX', lasting(d.counter, d.tat - now + 1000))
  end,
  stand = function(d)
    return d.burst - (d.tat - now) * d.rate, d.tat - now, d.tat, 0
  end,
  member = function(d, id) return id .. ':' .. exact(d.cost + d.granted) end,
}

kinds.day = {
  read = function(d)
    d.limit = d.x
    if d.limit > 0 then d.cost = math.min(d.cost, d.limit) end
    local held = redis.call('HMGET', d.counter, 'd', 'u', 'h')
    local day, used, kept = tonumber(held[1]), tonumber(held[2]), tonumber(held[3]) or 0
    -- A master whose clock is behind that of the last one must not open a day twice.
    d.day = math.max(today, day or 0)
    if day ~= d.day or not used then
      used, kept = 0, 0
      if d.known and d.known_day == d.day then
        used = d.known
        d.stale = true
      end
    end
    for _, member in ipairs(lapsed(d.held)) do
      local amount, of = string.match(member, '^[^:]*:([^:]*):(.*)$')
      if tonumber(amount) and tonumber(of) == d.day then
        used, kept = math.max(0, used - amount), math.max(0, kept - amount)
      end
      d.stale = true
    end
    d.used, d.kept = used, kept
    d.reset = (d.day + 1) * DAY - now
    d.wait = 0
    d.ok = d.cost == 0 or used + d.cost <= d.limit * (1 + 1e-12)
    d.spent = not d.ok and spent(d)
    d.retry = d.ok and 0 or d.spent and d.reset or 1000
  end,
  take = function(d)
    d.used = d.used + d.cost
    if d.reserved then d.kept = d.kept + d.cost end
  end,
  write = function(d)
    redis.call('HSET', d.counter, 'd', whole(d.day), 'u', exact(d.used), 'h', exact(d.kept))
    redis.call('PEXPIRE', d.counter, whole(d.reset + 1000))
  end,
  stand = function(d)
    return d.limit - d.used, d.reset, d.used, d.day
  end,
  member = function(d, id) return id .. ':' .. exact(d.cost) .. ':' .. whole(d.day) end,
}

kinds.running = {
  read = function(d)
    d.limit, d.lives = d.x, d.y
    redis.call('ZREMRANGEBYSCORE', d.counter, '-inf', exact(now))
    d.count = redis.call('ZCARD', d.counter)
    d.wait = 0
    d.ok = d.count + d.cost <= d.limit
    d.retry = d.ok and 0 or 1000
  end,
  take = function(d) d.count = d.count + d.cost end,
  write = function() end,
  stand = function(d) return d.limit - d.count, 0, 0, 0 end,
}

local debits, by, retry = {}, 0, -1
local admitted = true
for i = 1, #KEYS / 2 do
  local at = 2 + (i - 1) * 9
  local d = {
    counter = KEYS[2 * i - 1], held = KEYS[2 * i],
    cost = tonumber(ARGV[at + 2]), extra = tonumber(ARGV[at + 3]), reserved = ARGV[at + 4] == '1',
    known = tonumber(ARGV[at + 5]), known_day = tonumber(ARGV[at + 6]),
    x = tonumber(ARGV[at + 7]), y = tonumber(ARGV[at + 8]), z = tonumber(ARGV[at + 9]),
    kind = kinds[ARGV[at + 1]], granted = 0,
  }
  d.kind.read(d)
  if not d.ok then
    admitted = false
    if d.retry > retry then by, retry = i - 1, d.retry end
  end
  debits[i] = d
end

local id, lives = ARGV[1], tonumber(ARGV[2])
local out = { admitted and '1' or '0', whole(by), exact(math.max(0, retry)) }
for _, d in ipairs(debits) do
  if admitted then d.kind.take(d) end
  if admitted or d.stale then d.kind.write(d) end
  local left, reset, mark, day = d.kind.stand(d)
  if admitted then
    if d.kind == kinds.running then
      -- Nothing is counted of a mere look.
      if d.cost > 0 then redis.call('ZADD', d.counter, exact(now + d.lives), id) end
      redis.call('PEXPIRE', d.counter, lasting(d.counter, d.lives))
    elseif d.reserved then
      redis.call('ZADD', d.held, exact(now + lives), d.kind.member(d, id))
      redis.call('PEXPIRE', d.held, lasting(d.held, math.max(lives, reset) + 1000))
    end
  end
  out[#out + 1] = exact(d.granted)
  out[#out + 1] = exact(left)
  out[#out + 1] = exact(math.max(0, reset))
  out[#out + 1] = exact(admitted and d.wait or 0)
  out[#out + 1] = exact(mark)
  out[#out + 1] = whole(day)
  out[#out + 1] = d.spent and '1' or '0'
end
return out
