-- put v1: stores an answer and gives the right to make it back.
-- KEYS  answer, marker, pieces
-- ARGV  owner, value, kept in ms
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('HGET', KEYS[2], 'owner') == ARGV[1] then redis.call('DEL', KEYS[2], KEYS[3]) end
return 1
