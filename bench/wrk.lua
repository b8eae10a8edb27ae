-- Posts the file that WRK_BODY names, and prints what was measured as one line of JSON. Ten digits MARK in the body are
-- another number in each request, from WRK_FIRST on, so that no two inputs are the same.
local MARK = "0123456789"
local ffi = require("ffi")
local whole, digits

local file = assert(io.open(os.getenv("WRK_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
file:close()

-- Counts up in the bytes of the string itself, which wrk copies: a new string for each request would cost as much as a
-- fast server does.
local function count_up()
  local at = #MARK - 1
  while digits[at] == 57 do -- "9"
    digits[at] = 48 -- "0"
    at = at - 1
  end
  digits[at] = digits[at] + 1
  return whole
end

if wrk.body:find(MARK, 1, true) then
  request = count_up -- a global function of wrk's
end

function init()
  whole = wrk.format()
  local place = whole:find(MARK, 1, true)
  if place then
    digits = ffi.cast("char *", ffi.cast("const char *", whole)) + place - 1
    ffi.copy(digits, os.getenv("WRK_FIRST"), #MARK)
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nJSON {"requests": %d, "micros": %d, "p50": %d, "p99": %d, "bad_status": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
