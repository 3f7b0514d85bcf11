-- renew v2: keeps the right to make an answer, and adds pieces of it.
-- Says whether another has asked since the last renewal.
-- KEYS  marker, pieces
-- ARGV  owner, lives in ms; then the pieces
local marker = redis.call('HMGET', KEYS[1], 'owner', 'followed')
if marker[1] ~= ARGV[1] then return { 0, 0 } end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 3, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if marker[2] then redis.call('HDEL', KEYS[1], 'followed') end
return { 1, marker[2] and 1 or 0 }
