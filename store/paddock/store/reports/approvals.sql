-- Who approved what, by which rule, how slowly.
SELECT a.door, a.decided_by, a.rule, a.scope, a.decision, t.tool, t.command_head,
       count(*) AS decisions,
       quantile_cont(epoch_us(a.decided_at - a.requested_at) / 1000.0::DOUBLE, 0.5) AS p50_ms,
       max(epoch_us(a.decided_at - a.requested_at) / 1000.0::DOUBLE) AS max_ms
FROM approvals a LEFT JOIN tool_calls t USING (session_id, tool_call_id)
WHERE a.decision IS NOT NULL
GROUP BY ALL ORDER BY decisions DESC
