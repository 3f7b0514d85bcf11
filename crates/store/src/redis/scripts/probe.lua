-- probe v1: scripts run here and may write.
-- KEYS  anything
redis.call('SET', KEYS[1], '1', 'PX', 1000)
return redis.call('TIME')[1]
