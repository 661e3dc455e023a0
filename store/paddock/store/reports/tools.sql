-- Tool latency: running against waiting for a decision, in milliseconds.
SELECT tool, calls, failed, ran[1] AS p50_ms, ran[2] AS p95_ms,
       waited[1] AS wait_p50_ms, waited[2] AS wait_p95_ms, running_ms, waiting_ms
FROM (
    SELECT tool, count(*) AS calls, count(*) FILTER (is_error) AS failed,
           quantile_cont(duration_ms, [0.5, 0.95]) AS ran,
           quantile_cont(wait_ms, [0.5, 0.95]) AS waited,
           sum(duration_ms) AS running_ms, sum(wait_ms) AS waiting_ms
    FROM tool_calls WHERE finished_at IS NOT NULL GROUP BY tool
) ORDER BY calls DESC
