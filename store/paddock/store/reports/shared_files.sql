-- Files that two sessions or more touched today.
SELECT path, count(DISTINCT session_id) AS sessions, count(*) AS changes,
       list(DISTINCT session_id) AS session_ids, max(changed_at) AS last
FROM file_changes WHERE changed_at >= current_date
GROUP BY path HAVING sessions > 1 ORDER BY last DESC
