-- renew v1: keeps the right to make an answer, and adds pieces of it.
-- KEYS  marker, pieces
-- ARGV  owner, lives in ms; then the pieces
local marker = redis.call('HMGET', KEYS[1], 'owner', 'followed')
if marker[1] ~= ARGV[1] then return { 0, 0 } end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 3, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return { 1, marker[2] and 1 or 0 }
