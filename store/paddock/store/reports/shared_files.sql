-- Files that two sessions or more touched today.
SELECT path, count(DISTINCT session_id) AS sessions, count(*) AS changes,
       list(DISTINCT session_id) AS session_ids, max(changed_at) AS last
FROM (
    -- A path is told from the workspace on where it lies in it, and two workspaces may each have one.
    SELECT c.session_id, c.changed_at,
           CASE WHEN starts_with(c.path, '/') THEN c.path ELSE concat_ws('/', rtrim(s.workspace, '/'), c.path) END AS path
    FROM file_changes c JOIN sessions s USING (session_id) WHERE c.changed_at >= current_date
)
GROUP BY path HAVING sessions > 1 ORDER BY last DESC
