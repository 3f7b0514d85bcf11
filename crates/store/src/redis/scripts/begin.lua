-- begin v1: a stored answer, or the right to make it.
-- KEYS  answer, marker, pieces
-- ARGV  owner, note, lives in ms
-- The marker is a hash: owner, note, followed (another has asked since it was renewed), alone (it cannot be shared).
local answer = redis.call('GET', KEYS[1])
if answer then return { 'found', answer, redis.call('PTTL', KEYS[1]) } end
local marker = redis.call('HMGET', KEYS[2], 'owner', 'note', 'alone')
if marker[3] then return { 'alone' } end
if marker[1] and marker[1] ~= ARGV[1] then
  redis.call('HSET', KEYS[2], 'followed', '1')
  return { 'follow', marker[2] or '' }
end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'note', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return { 'lead' }
