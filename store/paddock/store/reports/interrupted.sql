-- What may have run twice or half.
SELECT session_id, operation_id, tool_call_id, tool, arguments, effects, generation, started_at, finished_at
FROM tool_calls WHERE status = 'interrupted' AND effects <> 'none'
ORDER BY finished_at DESC
