-- What one end user of a tenant may use: a rate and a day, on this server's clock.
--
-- KEYS: the end user. ARGV: the rate's count, period in microseconds and burst (count 0: no rate asked
-- about), the day as a number and its limit (-1: none asked about), what is taken of it (negative: given
-- back), and for how many seconds all of this is kept.
-- Returns 1 or 0, after how many microseconds the rate lets another through, in how many it is full, and
-- what is used of the day.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local count, period, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local day, limit, units, keep = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local stored = redis.call('HMGET', KEYS[1], 'full', 'day', 'used')
local full = tonumber(stored[1] or 0)
local last = tonumber(stored[2] or 0) or 0
if units > 0 and last == day + 1 then
  -- Another node's clock is ahead, or its zone was: what was begun there goes on.
  day = last
end
local used = last == day and tonumber(stored[3]) or 0
local allowed, wait = 1, 0
if count > 0 then
  local each = period / count
  local next = math.max(full, now) + each
  if next > now + burst * each then
    allowed, wait = 0, math.ceil(next - now - burst * each)
  else
    full = math.ceil(next)
    redis.call('HSET', KEYS[1], 'full', string.format('%.0f', full))
  end
end
if limit >= 0 then
  if units > 0 and used + units > limit then
    allowed = 0
  elseif units > 0 or last == day then
    -- What is given back of a day that is over stays there.
    used = math.max(0, used + units)
    redis.call('HSET', KEYS[1], 'day', day, 'used', string.format('%.0f', used))
  end
end
-- A bucket that takes longer to fill is not forgotten before it has.
keep = math.max(keep, math.ceil((full - now) / 1000000) + 1)
redis.call('EXPIRE', KEYS[1], string.format('%.0f', keep))
return { allowed, wait, math.max(0, full - now), used }
