-- The short POST of the request measurements, and its result as one line of JSON.
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.body = file:read("*a")
file:close()
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["content-type"] = "application/json"

function done(summary, latency, requests)
    local e = summary.errors
    print(string.format(
        'result {"requests": %d, "duration_us": %d, "errors": %d, "p50_us": %d, "p99_us": %d}',
        summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
