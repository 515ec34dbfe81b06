-- What one node reports about one tenant and wants of it: see account.rs and portion.rs, which decide the
-- same for a store of one's own. Numbers stay below 2^53. Times are microseconds of this server's clock.
--
-- KEYS: the tenant's portions, where asked about, then one account each for `ops`.
-- ARGV: node, nodes, portion (0 or 1), ops; then what the portion takes, then what each account does.
-- Returns numbers: of the portion tokens, wait, left, places; of each account given (2), taken (2),
-- extra (2), crossed (2), epoch, version, whether something was held back (0 or 1), whether parts are
-- kept to (0 or 1), and what the node has left of its part (2).
-- How long nodes have to say what they know, after something was lost or nobody could be asked.
local HOLD = 5000000
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local at, key = 0, 0
local function arg()
  at = at + 1
  return tonumber(ARGV[at])
end
local function nextkey()
  key = key + 1
  return KEYS[key]
end
local function text(number)
  return string.format('%.0f', number)
end
local node = ARGV[1]
at = 1
local nodes, portion, ops = arg(), arg(), arg()
local answer = {}

local function tokens(name, known)
  local count, period, burst, seen = arg(), arg(), arg(), arg()
  local back, debt, want, keep = arg(), arg(), arg(), arg()
  if count == 0 then
    return 0, 0, 0, keep
  end
  local each = period / count
  local most = burst * each
  local full = tonumber(redis.call('HGET', name, 'full'))
  if not full then
    -- This server has lost it: it may have been emptied a moment ago.
    full = seen == 1 and now + most or 0
  end
  if not known then
    full = math.max(0, full + (debt - back) * each)
  end
  local from = math.max(full, now)
  local given = math.min(want, math.max(0, math.floor((now + most - from) / each)))
  if given > 0 then
    full = from + math.ceil(given * each)
    from = full
  end
  redis.call('HSET', name, 'full', text(full))
  local wait = 0
  if given < want then
    wait = math.max(0, math.ceil(from + each - now - most))
  end
  local left = math.max(0, math.floor((now + most - from) / each))
  return given, wait, left, math.max(keep, most)
end

local function places(name)
  local most, want, time = arg(), arg(), arg()
  if most == 0 then
    return 0
  end
  local held, untils, others = {}, {}, 0
  local all = redis.call('HGETALL', name)
  for i = 1, #all, 2 do
    local kind, who = string.sub(all[i], 1, 2), string.sub(all[i], 3)
    if kind == 'c:' then held[who] = tonumber(all[i + 1]) end
    if kind == 'u:' then untils[who] = tonumber(all[i + 1]) end
  end
  for who, count in pairs(held) do
    if (untils[who] or 0) <= now then
      redis.call('HDEL', name, 'c:' .. who, 'u:' .. who)
    elseif who ~= node then
      others = others + count
    end
  end
  local mine = math.max(0, math.min(want, most - others))
  if mine > 0 then
    redis.call('HSET', name, 'c:' .. node, text(mine), 'u:' .. node, text(now + time))
  else
    redis.call('HDEL', name, 'c:' .. node, 'u:' .. node)
  end
  return mine
end

if portion == 1 then
  local name, seq = nextkey(), arg()
  -- Never a lower number again: an older question may arrive late, on a connection of its own.
  local last = tonumber(redis.call('HGET', name, 's:' .. node) or -1)
  local known = last >= seq
  local given, wait, left, keep = tokens(name, known)
  local mine = places(name)
  redis.call('HSET', name, 's:' .. node, text(math.max(last, seq)))
  redis.call('PEXPIRE', name, text(math.ceil(keep / 1000)))
  for _, number in ipairs({ given, wait, left, mine }) do
    answer[#answer + 1] = number
  end
end

for _ = 1, ops do
  local name, seq, warn_at, keep = nextkey(), arg(), arg(), arg()
  local limit = { arg(), arg() }
  local back, debt, grant, named = { arg(), arg() }, { arg(), arg() }, { arg(), arg() }, arg()
  local want, need, kept = { arg(), arg() }, { arg(), arg() }, { arg(), arg() }
  local epoch, version = arg(), arg()
  local seen_taken, seen_extra = { arg(), arg() }, { arg(), arg() }
  local tally = arg()

  local stored = redis.call('HMGET', name, 'e', 'v', 'r', 'b', 'x', 'y', 'w', 'z', 's:' .. node,
    'lost', 'hold', 'free1', 'free2', 'hold:' .. node, 'part1:' .. node, 'part2:' .. node, 'base1', 'base2')
  local function number(place)
    return tonumber(stored[place] or 0)
  end
  local here = stored[1] and tonumber(stored[1]) or now
  local taken, extra = { number(3), number(4) }, { number(5), number(6) }
  local warned, crossed, given = { number(7), number(8) }, { 0, 0 }, { 0, 0 }
  local lost, hold, free = number(10), number(11), { number(12), number(13) }
  local part = { 0, 0 }
  local last = tonumber(stored[9] or -1)
  local known, older = last >= seq, false
  if epoch > 0 and epoch == here and number(2) < version then
    -- Older data: from here on it is another copy, so that every node says what it has seen.
    here, older = now, true
  end
  if epoch > 0 and epoch ~= here then
    -- This server has lost what the node has seen. The node that was last to take something has seen the
    -- most; until all have had the time to say what they have seen, nothing is given. What came since the
    -- loss lies on top of that.
    local base = { number(17), number(18) }
    for i = 1, 2 do
      if not stored[17] then
        base[i] = older and taken[i] or 0
      end
      local most = math.max(base[i], seen_taken[i])
      taken[i] = most + taken[i] - base[i]
      extra[i] = math.max(extra[i], seen_extra[i])
      redis.call('HSET', name, 'base' .. i, text(most))
    end
    lost, hold = 1, math.max(hold, here + HOLD)
  end
  if not known and debt[1] + debt[2] > 0 and now > hold then
    -- Nobody could be asked, and nodes went on with their parts. Others have not said yet how much of
    -- theirs they used, so for a while each is given no more than its part of what was free.
    lost, hold = 0, now + HOLD
    for i = 1, 2 do
      free[i] = limit[i] >= 0 and math.max(0, limit[i] + extra[i] - taken[i]) or 0
    end
  elseif number(14) == hold then
    part = { number(15), number(16) }
  end
  if not known and named > 0 and redis.call('HSETNX', name, 'g:' .. text(named), 1) == 0 then
    -- Under one name there is one grant.
    grant = { 0, 0 }
  end
  local holds, held, rest = now <= hold, 0, { 0, 0 }
  for i = 1, 2 do
    if not known then
      taken[i] = math.max(0, taken[i] - back[i]) + debt[i]
      extra[i] = extra[i] + grant[i]
      part[i] = math.max(0, part[i] + debt[i] - back[i])
    end
    if limit[i] >= 0 then
      local all = limit[i] + extra[i]
      local left = math.max(0, all - taken[i])
      local fair = math.max(need[i], math.floor(left / (2 * nodes)))
      given[i] = math.min(want[i], fair, left)
      if holds then
        local most = lost == 1 and 0 or math.max(0, math.floor(free[i] / nodes) - part[i])
        if given[i] > most then
          given[i], held = most, 1
        end
      end
      taken[i], part[i] = taken[i] + given[i], part[i] + given[i]
      rest[i] = lost == 1 and 0 or math.max(0, math.floor(free[i] / nodes) - part[i])
      if taken[i] - given[i] - kept[i] >= math.ceil(all * warn_at / 100) then
        if warned[i] < all then crossed[i] = 1 end
        warned[i] = all
      end
    end
  end
  version = number(2) + 1
  redis.call('HSET', name, 'e', text(here), 'v', text(version), 'r', text(taken[1]), 'b', text(taken[2]),
    'x', text(extra[1]), 'y', text(extra[2]), 'w', text(warned[1]), 'z', text(warned[2]), 's:' .. node,
    text(math.max(last, seq)))
  if holds then
    redis.call('HSET', name, 'lost', lost, 'hold', text(hold), 'free1', text(free[1]), 'free2', text(free[2]),
      'hold:' .. node, text(hold), 'part1:' .. node, text(part[1]), 'part2:' .. node, text(part[2]))
  end
  for i = 1, tally do
    local more = arg()
    if not known and more > 0 then
      redis.call('HINCRBY', name, 't' .. i, text(more))
    end
  end
  redis.call('EXPIRE', name, text(keep))
  for _, pair in ipairs({ given, taken, extra, crossed, { here, version } }) do
    answer[#answer + 1] = pair[1]
    answer[#answer + 1] = pair[2]
  end
  for _, number in ipairs({ held, holds and 1 or 0, rest[1], rest[2] }) do
    answer[#answer + 1] = number
  end
end
return answer
