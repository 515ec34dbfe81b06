-- Makes all that is kept of a tenant's customers unreadable, and tells everybody.
--
-- ARGV: epoch, a token, the tenant.
redis.call('HDEL', KEYS[4], ARGV[3])
announce('t' .. ARGV[2] .. ARGV[3])
return 1
