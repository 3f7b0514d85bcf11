-- look_up v1: a stored answer.
-- KEYS  answer
local answer = redis.call('GET', KEYS[1])
if answer then return { 'found', answer, redis.call('PTTL', KEYS[1]) } end
return { 'none' }
