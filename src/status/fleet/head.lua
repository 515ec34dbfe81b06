-- What every script of the fleet begins with: which history this server has, and the time of its clock.
--
-- KEYS: the log's head, the log, the writes under way, the tenants; then the customer, where it is about one.
-- ARGV[1]: the name of a new epoch, should one begin.
--
-- An epoch is one server's unbroken history. A server that restarts, is promoted, or gets another one's data
-- has another replication ID, and what it holds may lack what was announced last: so a new epoch begins, in
-- which nothing that was kept before is believed. Numbers of the log go on, so that none comes twice.
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY this server is a replica')
end
local history = string.match(info, 'master_replid:(%x+)')
if not history then
  return redis.error_reply('ERR this server does not name its history')
end
local function text(number)
  return string.format('%.0f', number)
end
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)
local log = redis.call('HMGET', KEYS[1], 'history', 'epoch', 'seq', 'beat')
local epoch, seq = log[2], tonumber(log[3])
if log[1] ~= history or not epoch or not seq then
  epoch, seq = ARGV[1], seq or micros
  redis.call('HSET', KEYS[1], 'history', history, 'epoch', epoch, 'seq', text(seq))
  redis.call('DEL', KEYS[2])
end
-- Tells everybody. Who is behind by more than is kept has to forget everything.
local function announce(what)
  seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
  redis.call('RPUSH', KEYS[2], what)
  redis.call('LTRIM', KEYS[2], -8192, -1)
end
-- Until when a customer is in doubt, and by how many writes.
local function doubts()
  local known = redis.call('HMGET', KEYS[5], 'd', 'n')
  local till, count = tonumber(known[1] or 0), tonumber(known[2] or 0)
  if till <= now then
    return 0, 0
  end
  return till, count
end
