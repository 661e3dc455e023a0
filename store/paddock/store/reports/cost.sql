-- Cost by project, model and day, with the unpriced calls shown.
SELECT s.project, m.model, CAST(m.started_at AS DATE) AS day,
       count(*) AS calls,
       count(*) FILTER (m.cost_usd IS NULL AND m.status = 'ok') AS unpriced_calls,
       sum(m.cost_usd) AS cost_usd,
       sum(m.input_tokens) AS input_tokens, sum(m.output_tokens) AS output_tokens
FROM model_calls m JOIN sessions s USING (session_id)
GROUP BY ALL ORDER BY day DESC, cost_usd DESC NULLS LAST
