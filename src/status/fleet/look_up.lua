-- What is kept of a customer.
--
-- ARGV: epoch, the tenant, a new salt for it.
-- Returns the epoch, the time, the tenant's salt, the number of the last announcement (or nothing), whether
-- the customer is in doubt, the value (or nothing), its time and until when it is kept.
local salt = redis.call('HGET', KEYS[4], ARGV[2])
if not salt then
  salt = ARGV[3]
  redis.call('HSET', KEYS[4], ARGV[2], salt)
end
local known = redis.call('HMGET', KEYS[5], 'g', 'e', 'v', 's', 'x')
local till = doubts()
if till > 0 then
  return { epoch, now, salt, known[1] or '', 1, '', '0', '0' }
end
if known[2] ~= epoch or tonumber(known[5] or 0) <= now then
  return { epoch, now, salt, known[1] or '', 0, '', '0', '0' }
end
return { epoch, now, salt, known[1] or '', 0, known[3], known[4], known[5] }
