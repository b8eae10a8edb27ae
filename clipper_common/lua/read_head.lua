-- Answers the revision and the epoch by which a change is committed, and the head: what their keys and that of the
-- number of workers have.
return {digits(revision()), epoch(), read_head()}
