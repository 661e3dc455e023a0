-- Tool latency: running against waiting for a decision, in milliseconds.
SELECT tool, count(*) AS calls, count(*) FILTER (is_error) AS failed,
       quantile_cont(duration_ms, 0.5) AS p50_ms, quantile_cont(duration_ms, 0.95) AS p95_ms,
       quantile_cont(wait_ms, 0.5) AS wait_p50_ms, quantile_cont(wait_ms, 0.95) AS wait_p95_ms,
       sum(duration_ms) AS running_ms, sum(wait_ms) AS waiting_ms
FROM tool_calls WHERE finished_at IS NOT NULL
GROUP BY tool ORDER BY calls DESC
