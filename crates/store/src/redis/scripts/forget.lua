-- forget v1: removes a stored answer.
-- KEYS  answer
return redis.call('DEL', KEYS[1])
