/* schema_2: from version 1 of a journal to version 2: rows say what the journal must hold, so that a page that the disk
 * has lost is noticed. C string literals, like schema.sql.
 *
 * A row that does not match its checksum stays as it is, and so does not match the new one either.
 */
"ALTER TABLE plan ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0; -- of the plan's last record; in the checksum"
"\nALTER TABLE meta ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0; -- of the last record of plan 0"
"\nALTER TABLE meta ADD COLUMN plans INTEGER NOT NULL DEFAULT 0;    -- rows of the table plan"
"\nUPDATE plan SET"
"\n  sequence = (SELECT ifnull(max(sequence), 0) FROM journal WHERE plan_key = key),"
"\n  checksum = tci_plan_sum(key, settled, id,"
"\n                          (SELECT ifnull(max(sequence), 0) FROM journal WHERE plan_key = key))"
"\n  WHERE checksum = tci_plan_sum(key, settled, id, 0);"
"\nUPDATE meta SET"
"\n  sequence = (SELECT ifnull(max(sequence), 0) FROM journal WHERE plan_key = 0),"
"\n  plans = (SELECT count(*) FROM plan);"
