-- follow v2: what has become of an answer that another makes.
-- KEYS  answer, marker, pieces
-- ARGV  number of the first piece wanted, how many at most
local answer = redis.call('GET', KEYS[1])
if answer then return { 'found', answer, redis.call('PTTL', KEYS[1]) } end
local marker = redis.call('HMGET', KEYS[2], 'owner', 'alone')
if marker[2] then return { 'alone' } end
local from = tonumber(ARGV[1])
if not marker[1] then return { 'orphaned' } end
redis.call('HSET', KEYS[2], 'followed', '1')
-- Fewer pieces than the caller has: another began anew, and what it makes does not continue the old ones.
if redis.call('LLEN', KEYS[3]) < from then return { 'orphaned' } end
return { 'pieces', redis.call('LRANGE', KEYS[3], from, from + ARGV[2] - 1) }
