-- Who waits for me, and since when.
SELECT s.session_id, coalesce(s.name, s.title) AS session, s.attention, s.waiting_since,
       t.tool, t.arguments
FROM sessions s LEFT JOIN tool_calls t ON t.session_id = s.session_id AND t.status = 'waiting'
WHERE s.attention IS NOT NULL
ORDER BY s.waiting_since
