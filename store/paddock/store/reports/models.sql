-- Rate limits, retries and how the context grows.
SELECT provider, model, count(*) AS calls,
       count(*) FILTER (http_status = 429) AS rate_limited,
       count(*) FILTER (attempt > 1) AS retries, count(*) FILTER (status = 'error') AS errors,
       quantile_cont(ttft_ms, 0.5) AS ttft_p50_ms, quantile_cont(duration_ms, 0.95) AS p95_ms,
       quantile_cont(context_tokens, 0.5) AS context_p50, max(context_tokens) AS context_max,
       max(context_tokens / context_limit) AS context_used
FROM model_calls GROUP BY provider, model ORDER BY calls DESC
