-- What fails: by tool, command and error, the most frequent first.
SELECT tool, command_head, status, error_signature,
       count(*) AS calls, count(DISTINCT session_id) AS sessions, max(finished_at) AS last
FROM tool_calls WHERE is_error
GROUP BY ALL ORDER BY calls DESC, last DESC
