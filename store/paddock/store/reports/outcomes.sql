-- Cost and time per good outcome, by agent version.
SELECT s.agent, s.agent_version, count(*) AS operations,
       count(*) FILTER (o.outcome = 'good') AS good,
       sum(o.cost_usd) / nullif(good, 0) AS cost_usd_per_good,
       sum(o.duration_ms) / nullif(good, 0) AS ms_per_good,
       count(*) FILTER (o.cost_usd IS NULL) AS unpriced
FROM operations o JOIN sessions s USING (session_id) WHERE o.status <> 'running'
GROUP BY ALL ORDER BY operations DESC
