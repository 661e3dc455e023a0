-- Deaths per day: of what, and back in how long.
SELECT CAST(ended_at AS DATE) AS day, reason, signal, exit_code,
       count(*) AS deaths, count(*) FILTER (action = 'left_down') AS left_down,
       -- What was left down, or at rest, came back when somebody asked for it.
       quantile_cont(ready_again_ms, 0.5) FILTER (action = 'restarted') AS ready_again_p50_ms,
       max(ready_again_ms) FILTER (action = 'restarted') AS ready_again_max_ms,
       max(peak_rss_bytes) AS peak_rss_bytes
FROM worker_runs WHERE ending = 'crashed'
GROUP BY ALL ORDER BY day DESC, deaths DESC
