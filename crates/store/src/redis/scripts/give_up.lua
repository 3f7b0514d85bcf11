-- give_up v1: gives the right to make an answer back without one.
-- KEYS  marker, pieces
-- ARGV  owner, 1 when it cannot be shared
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] == '1' then
  -- Keeps the expiry that the marker has.
  redis.call('HSET', KEYS[1], 'alone', '1')
  redis.call('HDEL', KEYS[1], 'owner', 'note', 'followed')
else
  redis.call('DEL', KEYS[1])
end
return 1
